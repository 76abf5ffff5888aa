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
    ("/parser.js", SCRIPT, include_bytes!("../../static/parser.js")),
    ("/publish.js", SCRIPT, include_bytes!("../../static/publish.js")),
    ("/stream.js", SCRIPT, include_bytes!("../../static/stream.js")),
    ("/theme.js", SCRIPT, include_bytes!("../../static/theme.js")),
    ("/token.js", SCRIPT, include_bytes!("../../static/token.js")),
    ("/words.js", SCRIPT, include_bytes!("../../static/words.js")),
];

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// The headers for what a browser shows or runs.
const HEADERS: [(&str, &str); 4] = [
    // Only this server's files are allowed, and no inline scripts. If a fault ever shows an event as markup, its
    // scripts still do not run. No other site may show the page in a frame, where a user could be made to click it.
    (
        "content-security-policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
    ),
    // No other site gets a reference to the page's window, or the page's files.
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    // The address of the page has the names of topics.
    ("referrer-policy", "no-referrer"),
];

/// The file with this path.
pub(super) fn find(path: &str) -> Option<&'static File> {
    FILES.iter().find(|(other, ..)| *other == path)
}

pub(super) fn answer((_, media_type, content): &File) -> Answer {
    let mut answer = Answer::new(StatusCode::OK).with("content-type", *media_type).body(*content);
    // The browser must revalidate each file. After an upgrade, it must not mix old and new files.
    answer.cache_control = "no-cache";
    answer.headers.extend(HEADERS.map(|(name, value)| (name, value.into())));
    answer
}
