//! The fallback: actix-web reads the requests that are not simple enough for the fast path. As there, [`super::serve`]
//! decides what a request means.

use std::{future::pending, net::IpAddr, rc::Rc};

use actix_http::ConnectionType;
use actix_web::{HttpRequest, HttpResponse, body, body::BoxBody, http::Version, web};
use futures_util::TryStreamExt as _;

use super::{
    answer::Answer, app_state::AppState, head::Head, payload::Body, reply::Reply, serve::serve, stream::HandOver,
};
use crate::hub::Carrier;

/// Answers one request.
pub async fn answer(app: Rc<AppState>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    // `server::Server` sets a carrier for each connection.
    let Some(carrier) = request.conn_data::<Carrier>().cloned() else { return pending().await };
    if carrier.has_begun() {
        // The connection is closed after the first request, or belongs to a stream. The bytes after it are not a
        // request.
        return pending().await;
    }
    let payload = payload.map_err(|error| error.to_string());
    let reply = serve(&app, &request, Body::Coming(Box::pin(payload))).await;
    match reply {
        Reply::Stream(mut head, subscription) => {
            let first = std::mem::take(&mut head.body).into_owned();
            let body = HandOver::new(carrier, app.hub.clone(), first.into(), *subscription);
            HttpResponse::from(head).set_body(BoxBody::new(body))
        }
        Reply::Answer(answer) => {
            let mut response = HttpResponse::from(answer);
            if !carrier.is_length_known() {
                // The end of the body is not known. The rest of it could be misread as the next request.
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            carrier.begin_answer();
            response
        }
    }
}

impl Head for HttpRequest {
    fn method(&self) -> &str {
        Self::method(self).as_str()
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn query(&self) -> &str {
        self.query_string()
    }

    fn takes_chunks(&self) -> bool {
        self.version() >= Version::HTTP_11
    }

    fn remote(&self) -> Option<IpAddr> {
        self.peer_addr().map(|address| address.ip())
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().get_all(name).map(actix_web::http::header::HeaderValue::as_bytes)
    }
}

impl From<Answer> for HttpResponse {
    fn from(answer: Answer) -> Self {
        let mut response = Self::build(answer.status);
        for (name, value) in &answer.headers {
            response.insert_header((*name, &**value));
        }
        // For HEAD, actix-http sends the length of the body without the body.
        let mut response = if answer.is_stream && answer.is_head {
            response.body(body::None::new())
        } else {
            response.body(answer.body.into_owned())
        };
        if answer.is_last {
            response.head_mut().set_connection_type(ConnectionType::Close);
        }
        if answer.is_stream {
            response.head_mut().no_chunking(true);
        }
        response
    }
}
