//! The web page at `/` and its files, which are embedded in the binary.

use actix_http::StatusCode;

use super::answer::Answer;

/// Path, media type and content of a file.
pub(super) type File = (&'static str, &'static str, &'static [u8]);

/// Everything in `static/`.
const FILES: &[File] = &[
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

/// Only this server's files are allowed, and no inline scripts. If a fault ever shows an event as markup, its scripts
/// still do not run.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The file with this path.
pub(super) fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|(other, ..)| *other == path)
}

pub(super) fn answer((_, media_type, content): &File) -> Answer {
    Answer::new(StatusCode::OK)
        .with("content-type", *media_type)
        // The browser must revalidate each file. After an upgrade, it must not mix old and new files.
        .with("cache-control", "no-cache")
        .with("content-security-policy", POLICY)
        .with("x-content-type-options", "nosniff")
        .with("referrer-policy", "no-referrer")
        .body(*content)
}
