//! Which web pages may publish.
//!
//! A page of another site can make a browser send a GET or a simple POST without asking CORS first, and it is the
//! sending that publishes. So a browser's cross-site request is refused unless its origin is in `cors.origins`. Other
//! clients send neither `Origin` nor `Sec-Fetch-Site` and are not concerned.

use actix_web::http::StatusCode;

use super::{
    head::{Head, visible},
    problem::Problem,
};
use crate::config::{CorsConfig, Origins};

pub(super) fn check(request: &impl Head, cors: &CorsConfig) -> Result<(), Problem> {
    let allowed = match (request.value("origin"), request.text("sec-fetch-site")) {
        (Some(origin), _) => {
            let origin = visible(origin).unwrap_or_default();
            let authority = origin.split_once("://").map(|(_, authority)| authority);
            let same = authority.is_some() && authority == request.text("host");
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
