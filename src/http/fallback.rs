//! The fallback: actix-web reads the requests that are not simple enough for the fast path. [`super::serve`] decides
//! what they mean, as it does for the fast path.

use std::{
    convert::Infallible,
    future::pending,
    net::IpAddr,
    rc::Rc,
    task::{Poll, ready},
};

use actix_http::ConnectionType;
use actix_web::{
    HttpRequest, HttpResponse,
    body::{self, BodyStream, BoxBody, MessageBody},
    http::{
        Version,
        header::{HeaderName, HeaderValue},
        uri::Authority,
    },
    web,
};
use bytes::Bytes;
use futures_util::{TryStreamExt as _, stream};
use tokio::net::TcpStream;

use super::{answer::Answer, app_state::AppState, head::SentHead, payload::Body, reply::Reply, serve::serve};
use crate::{
    hub::{Carrier, HubHandle, Subscription},
    transport::ClientCertificate,
};

/// Answers the first request of a [`Carrier`].
pub async fn answer(app: Rc<AppState>, request: HttpRequest, payload: web::Payload) -> HttpResponse {
    // The HTTP server may call this a second time: if it does not know the length of the first request, it reads on,
    // and may take the rest of a body for a second request. By then the response to the first request has begun. The
    // second request must get no answer, so its future never ends. `fallback_request::serve_with` drops that future
    // when the first answer is sent or the hub has the socket.
    let carrier = request.conn_data::<Carrier>().filter(|carrier| !carrier.has_begun()).cloned();
    let Some(carrier) = carrier else { return pending().await };
    let payload = payload.map_err(|error| error.to_string());
    let reply = serve(&app, &request, Body::Coming(Box::pin(payload))).await;
    match reply {
        Reply::Stream(mut answer, subscription) => {
            let first = Bytes::from(std::mem::take(&mut answer.body).into_owned());
            let body = stream_body(first, carrier, app.hub.clone(), *subscription);
            HttpResponse::from(answer).set_body(BoxBody::new(body))
        }
        Reply::Answer(answer) => {
            let mut response = HttpResponse::from(answer);
            if !carrier.is_length_known() {
                // The rest of the body could be misread as the next request.
                response.head_mut().set_connection_type(ConnectionType::Close);
            }
            carrier.begin_answer();
            response
        }
    }
}

/// The body of a stream's response: the first bytes of the stream. When they are sent, the hub gets the socket. If the
/// client disconnects before, the body is dropped, and the subscription with it.
fn stream_body(first: Bytes, carrier: Carrier, hub: HubHandle, subscription: Subscription) -> impl MessageBody {
    let mut first = Some(first);
    let mut subscription = Some(subscription);
    BodyStream::new(stream::poll_fn(move |cx| {
        if let Some(first) = first.take() {
            carrier.begin_stream();
            return Poll::Ready(Some(Ok::<_, Infallible>(first)));
        }
        let socket = ready!(carrier.poll_take(cx));
        if let Some((socket, subscription)) = socket.zip(subscription.take()) {
            match socket.try_map(TcpStream::into_std) {
                Ok(socket) => hub.adopt(socket, subscription),
                Err(error) => tracing::warn!(%error, "cannot give a subscriber's socket to the hub"),
            }
        }
        Poll::Ready(None)
    }))
}

impl SentHead for HttpRequest {
    fn method(&self) -> &str {
        Self::method(self).as_str()
    }

    fn path(&self) -> &str {
        self.uri().path()
    }

    fn query(&self) -> &str {
        self.query_string()
    }

    fn target_authority(&self) -> Option<&str> {
        self.uri().authority().map(Authority::as_str)
    }

    fn is_http_1_1(&self) -> bool {
        self.version() >= Version::HTTP_11
    }

    fn peer(&self) -> Option<IpAddr> {
        self.peer_addr().map(|address| address.ip())
    }

    fn certificate(&self) -> Option<&ClientCertificate> {
        self.conn_data::<Carrier>().and_then(Carrier::certificate)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        self.headers().keys().map(HeaderName::as_str)
    }

    fn values<'a>(&'a self, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
        self.headers().get_all(name).map(HeaderValue::as_bytes)
    }
}

impl From<Answer> for HttpResponse {
    fn from(answer: Answer) -> Self {
        let mut response = Self::build(answer.status);
        for header in answer.all_headers() {
            response.insert_header(header);
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
