//! The page at `/` and its parts, embedded in the binary.

use actix_web::{HttpResponse, http::header, web};

/// Path, media type and content of everything in `static/`.
const FILES: &[(&str, &str, &[u8])] = &[
    ("/", HTML, include_bytes!("../../static/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_bytes!("../../static/style.css")),
    ("/icon.svg", "image/svg+xml", include_bytes!("../../static/icon.svg")),
    ("/app.js", SCRIPT, include_bytes!("../../static/app.js")),
    ("/commands.js", SCRIPT, include_bytes!("../../static/commands.js")),
    ("/list.js", SCRIPT, include_bytes!("../../static/list.js")),
    ("/publish.js", SCRIPT, include_bytes!("../../static/publish.js")),
    ("/stream.js", SCRIPT, include_bytes!("../../static/stream.js")),
    ("/theme.js", SCRIPT, include_bytes!("../../static/theme.js")),
    ("/words.js", SCRIPT, include_bytes!("../../static/words.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Nothing from elsewhere, nothing inline: an event that should ever be taken for markup still cannot run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn routes(config: &mut web::ServiceConfig) {
    for (path, media_type, content) in FILES {
        let answer = move || async move {
            HttpResponse::Ok()
                .content_type(*media_type)
                // Asked for anew each time: after an upgrade no part may be of the old page.
                .insert_header((header::CACHE_CONTROL, "no-cache"))
                .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
                .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
                .insert_header((header::REFERRER_POLICY, "no-referrer"))
                .body(*content)
        };
        config.service(
            web::resource(*path)
                .route(web::get().to(answer))
                .route(web::head().to(answer))
                .default_service(web::to(|| async { super::not_allowed("GET, HEAD") })),
        );
    }
}
