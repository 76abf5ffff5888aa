//! A worker: a thread with its own listener, HTTP server and hub. The actor of a topic runs on the worker that has
//! started the topic.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, mpsc::Sender},
};

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_service::{IntoServiceFactory as _, Service as _, ServiceFactory as _, ServiceFactoryExt as _};
use actix_web::{App, dev::AppConfig, web};
use futures_util::FutureExt as _;
use mio::net::TcpListener;
use tokio::io::{Interest, unix::AsyncFd};

use super::{accept::AcceptLoop, tasks::Tasks};
use crate::{
    http::{AppState, Fallback, FastPath, LINGER, PendingSlots, SharedState, fallback},
    hub::{Carrier, HubHandle, Inbox},
    log::Log,
};

/// Serves the connections of `listener` until the thread's runtime stops. Sends to `report` whether the worker could
/// start.
pub(super) async fn run(
    listener: std::net::TcpListener,
    log: Arc<dyn Log>,
    shared: SharedState,
    inbox: Inbox,
    report: Sender<io::Result<()>>,
) {
    let (pending, config) = (PendingSlots::new(Arc::clone(&shared.pending)), Arc::clone(&shared.config));
    let (acceptor, descriptors) = (shared.acceptor.clone(), Arc::clone(&shared.descriptors));
    // A send fails only if nobody waits for the report any more.
    match start(listener, &log, shared, inbox).await {
        Ok((listener, fast)) => {
            report.send(Ok(())).ok();
            // The server waits until every worker has dropped its sender.
            drop(report);
            let tasks = Tasks::new(Rc::clone(&fast));
            AcceptLoop { listener, fast, tasks, pending, acceptor, descriptors, config }.run().await;
        }
        Err(error) => drop(report.send(Err(error))),
    }
}

async fn start(
    listener: std::net::TcpListener,
    log: &Arc<dyn Log>,
    shared: SharedState,
    inbox: Inbox,
) -> io::Result<(AsyncFd<TcpListener>, Rc<FastPath>)> {
    let own_counts = shared.counts.get(inbox.worker).map(Arc::clone).unwrap_or_default();
    let hub = HubHandle::start(log, &shared.config.stream, &shared.unsent, inbox, shared.drain.clone())?;
    let app = Rc::new(AppState { shared, hub, own_counts });
    let fallback = start_fallback(&app).await?;
    // `with_interest` is deprecated because it trusts the caller that the descriptor stays open and is not replaced. A
    // listener keeps its own descriptor for its whole life. The successor of `with_interest` is unsafe to call.
    #[expect(deprecated, reason = "a listener keeps its descriptor")]
    let listener = AsyncFd::with_interest(TcpListener::from_std(listener), Interest::READABLE)?;
    Ok((listener, FastPath::new(app, fallback)))
}

/// Creates the HTTP server for requests that are not simple.
async fn start_fallback(app: &Rc<AppState>) -> io::Result<Fallback> {
    let app = Rc::clone(app);
    let answer = move |request, payload| fallback::answer(Rc::clone(&app), request, payload);
    let app_factory = App::new().default_service(web::to(answer)).into_factory();
    let app_factory = app_factory.map_err(|error: actix_web::Error| error.error_response());
    let service = HttpService::build()
        // This server gets a connection for one request (`hub::Carrier`), so there is no next request to wait for. A
        // keep-alive timer would only cut off a client that reads the response slowly.
        .keep_alive(KeepAlive::Os)
        .h1_allow_half_closed(false)
        // A response may be sent before the whole body was received, for example a 413. If the connection were closed
        // at once, the system would reset it, and the client might not get the response. So the rest of the body is
        // read and discarded for this time.
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|carrier: &Carrier, data| drop(data.insert(carrier.clone())))
        .finish(actix_service::map_config(app_factory, |()| AppConfig::default()));
    let service = service.new_service(()).await.map_err(|()| io::Error::other("the HTTP server cannot be started"))?;
    Ok(Box::new(move |carrier, remote: SocketAddr| {
        // An error means that the connection is closed. There is nothing else to do.
        service.call((carrier, Protocol::Http1, Some(remote))).map(drop).boxed_local()
    }))
}
