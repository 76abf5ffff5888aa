//! Which web pages may publish.
//!
//! A page of another site can make a browser send a GET or a simple POST without asking CORS first, and it is the
//! sending that publishes. So a browser's cross-site request is refused unless its origin is in `cors.origins`. Other
//! clients send neither `Origin` nor `Sec-Fetch-Site` and are not concerned.

use actix_web::{
    HttpRequest,
    http::{StatusCode, header},
};

use super::problem::Problem;
use crate::config::{CorsConfig, Origins};

pub(super) fn check(request: &HttpRequest, cors: &CorsConfig) -> Result<(), Problem> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let allowed = match (request.headers().get(header::ORIGIN), header("sec-fetch-site")) {
        (Some(origin), _) => {
            let origin = origin.to_str().unwrap_or_default();
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let same = authority.is_some() && authority == header("host");
            let listed = match &cors.origins {
                Origins::Any => true,
                Origins::Only(origins) => origins.iter().any(|allowed| allowed == origin),
            };
            same || listed
        }
        // `none` is the address bar; a form or an image of another page is not.
        (None, Some(site)) => matches!(site, "same-origin" | "none") || cors.origins == Origins::Any,
        (None, None) => true,
    };
    if allowed {
        return Ok(());
    }
    let detail = "a page of another site may not publish here; add its origin to cors.origins to allow it";
    Err(Problem::new(StatusCode::FORBIDDEN, "cross_site", detail))
}
