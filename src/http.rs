//! The edge: the routes, and what they share. Only this module and `server` see actix-web.

use std::{future::pending, sync::Arc, time::Duration};

use actix_cors::Cors;
use actix_http::ConnectionType;
use actix_service::Service;
use actix_web::{
    HttpRequest, HttpResponse, Responder,
    body::{BodySize, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::StatusCode,
    web,
};
use smallvec::SmallVec;
use tokio::sync::{mpsc, watch};

use crate::{
    config::{Config, CorsConfig, Origins},
    event::TopicName,
    hub::{Carrier, Hub},
    limits::{Connections, RequestBytes},
    log::Log,
    registry::Registry,
};

mod accept;
mod answer;
mod fields;
mod head;
mod origin;
mod page;
mod pending;
mod problem;
mod publish;
mod refusal;
mod fast;
mod spelling;
mod stream;
mod subscribe;
mod topics;

pub use fast::{Fallback, FastPath};
pub use pending::Pending;
pub use problem::Problem;

/// Why a server that is ending refuses.
const DRAINING: &str = "the server is shutting down";

/// What the routes of one worker work with.
pub struct Edge {
    /// The configuration.
    pub config: Arc<Config>,
    /// The log.
    pub log: Arc<dyn Log>,
    /// The topics.
    pub registry: Arc<Registry>,
    /// The subscribers' permits.
    pub connections: Arc<Connections>,
    /// The bytes of requests that are being received.
    pub bytes: Arc<RequestBytes>,
    /// The hub of this worker's thread.
    pub hub: Hub,
    /// Requests that the drain shall wait for hold it for as long as they take.
    pub under_way: mpsc::WeakSender<()>,
    /// Set once the server drains.
    pub draining: watch::Receiver<Option<Duration>>,
}

impl Edge {
    fn is_draining(&self) -> bool {
        // It changes once, and this costs no lock; without a server there is nobody to serve for.
        self.draining.has_changed().unwrap_or(true)
    }

    fn draining() -> Problem {
        Problem::unavailable("draining", DRAINING, Duration::from_secs(1))
    }

    /// Whether a change is taken.
    fn check_open(&self) -> Result<(), Problem> {
        if self.is_draining() { Err(Self::draining()) } else { Ok(()) }
    }

    /// The topics a request names, each once, and whether it named several; it named `more` beside `names`.
    fn topics<'a>(
        &self,
        mut names: impl Iterator<Item = &'a str>,
        more: usize,
    ) -> Result<(SmallVec<[TopicName; 1]>, bool), Problem> {
        let limits = &self.config.limits;
        let max = limits.topics_per_request_max;
        let mut topics = SmallVec::new();
        let mut given = 0;
        while let Some(name) = names.next() {
            given += 1;
            if given > max {
                given += names.count() + more;
                let detail = format!("a request may name {max} topics, and this one names {given}");
                let problem = Problem::bad_request("too_many_topics_named", detail);
                return Err(problem.with("limit", max).with("given", given));
            }
            let topic = TopicName::parse(name, limits.topic_bytes_max.to_usize())
                .map_err(|error| Problem::bad_request("bad_topic", format!("`topic` is refused: {error}")))?;
            if !topics.contains(&topic) {
                topics.push(topic);
            }
        }
        if topics.is_empty() {
            return Err(Problem::bad_request("topic_missing", "there is no `topic`"));
        }
        Ok((topics, given > 1))
    }
}

/// All routes.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/subscribe")
                .route(web::get().to(subscribe::route))
                .route(web::head().to(subscribe::route))
                .default_service(web::to(|| async { not_allowed("GET, HEAD") })),
        )
        // Which methods it takes is configured, so it judges them itself.
        .service(web::resource("/publish").to(publish::route))
        .service(
            web::resource("/topics/{topic:.+}")
                .route(web::get().to(topics::show))
                .route(web::delete().to(topics::delete))
                .default_service(web::to(|| async { not_allowed("GET, DELETE") })),
        )
        .service(
            web::resource("/healthz")
                .route(web::get().to(alive))
                .route(web::head().to(alive))
                .default_service(web::to(|| async { not_allowed("GET, HEAD") })),
        )
        .service(
            web::resource("/readyz")
                .route(web::get().to(ready))
                .route(web::head().to(ready))
                .default_service(web::to(|| async { not_allowed("GET, HEAD") })),
        )
        .configure(page::routes)
        .default_service(web::to(unknown));
}

async fn alive() -> impl Responder {
    "ok\n"
}

async fn ready(edge: web::Data<Edge>) -> Result<&'static str, Problem> {
    edge.check_open()?;
    let writable = edge.log.check();
    writable.map_err(|error| Problem::unavailable("unavailable", error.to_string(), Duration::from_secs(1)))?;
    Ok("ready\n")
}

async fn unknown(request: HttpRequest) -> HttpResponse {
    use actix_web::ResponseError as _;
    let path = request.path();
    // Where the topic is in the path with others.
    let hint = ["/publish", "/subscribe"].into_iter().find_map(|route| {
        let topic = path.strip_prefix(route)?.strip_prefix('/').filter(|topic| !topic.is_empty())?;
        Some(format!("; the topic is a parameter: {route}?topic={topic}"))
    });
    let detail = format!("there is nothing at this address{}", hint.unwrap_or_default());
    Problem::new(StatusCode::NOT_FOUND, "not_found", detail).error_response()
}

fn not_allowed(methods: &'static str) -> HttpResponse {
    use actix_web::ResponseError as _;
    Problem::method_not_allowed(methods).error_response()
}

/// Around every request of the fallback: tells the connection's [`Carrier`] when it is answered, and ends the
/// connection with the answer where the end of the request is not known.
pub fn one_request<S, B>(
    request: ServiceRequest,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse<B>, actix_web::Error>> + use<S, B>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = actix_web::Error>,
    S::Future: 'static,
    B: MessageBody,
{
    let carrier = request.conn_data::<Carrier>().cloned();
    // What came behind a request that ends the connection, or behind one for a stream, is no request.
    let is_first = carrier.as_ref().is_none_or(|carrier| !carrier.has_begun());
    let answered = is_first.then(|| service.call(request));
    async move {
        let Some(answered) = answered else { return pending().await };
        let mut answer = answered.await.inspect_err(|_| carrier.iter().for_each(Carrier::end_reading))?;
        let Some(carrier) = carrier else { return Ok(answer) };
        carrier.begun();
        if answer.response().body().size() != BodySize::Stream {
            if !carrier.is_framed() {
                // Where the body ends is not known: its rest would be taken for the next request.
                answer.response_mut().head_mut().set_connection_type(ConnectionType::Close);
                carrier.end_reading();
            }
            carrier.answered();
        }
        Ok(answer)
    }
}

/// What browsers are told about pages of other origins: exact origins with credentials, or everybody without.
pub fn cors(config: &CorsConfig) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "HEAD", "POST", "PUT", "DELETE"])
        .allow_any_header()
        .expose_headers(["last-event-id", "idempotency-replayed", "retry-after"])
        // Refusing is the routes' business (`origin`); here an unknown origin just gets no permission.
        .block_on_origin_mismatch(false)
        .max_age(3600);
    match &config.origins {
        Origins::Any => cors.allow_any_origin().send_wildcard(),
        Origins::Only(origins) => {
            origins.iter().fold(cors.supports_credentials(), |cors, origin| cors.allowed_origin(origin))
        }
    }
}
