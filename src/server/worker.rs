//! A worker: a thread with its own listener, HTTP server and hub, and the topics it was the first to use.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_service::{IntoServiceFactory as _, Service as _, ServiceFactory as _, ServiceFactoryExt as _};
use actix_web::{App, dev::AppConfig, middleware::Condition, web};
use futures_util::FutureExt as _;
use mio::net::{TcpListener, TcpStream};
use tokio::{
    io::{Interest, unix::AsyncFd},
    sync::Semaphore,
    task::{spawn_local, yield_now},
    time::sleep,
};

use crate::{
    config::{Config, Origins},
    http::{self, Edge, FullServer, ShortWay},
    hub::{Carrier, Drain, Hub},
    limits::Connections,
    log::Log,
    registry::Registry,
};

/// What a worker is made from.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) log: Arc<dyn Log>,
    pub(super) registry: Arc<Registry>,
    pub(super) connections: Arc<Connections>,
    pub(super) drain: Drain,
}

/// Connections of a worker that publish or ask; past that the system keeps new ones waiting. Subscribers are the hub's,
/// and have their own limit.
const CONNECTIONS_MAX: usize = 10_000;
/// Connections accepted before those accepted have their turn.
const ACCEPTS: usize = 64;
/// How long a worker that has no descriptor left waits for one.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How long a client may go on sending a body that has been answered already.
const LINGER: Duration = Duration::from_secs(2);

/// Serves what comes to `listener` for as long as the thread's runtime lives.
pub(super) async fn run(listener: std::net::TcpListener, parts: Parts) {
    match begin(listener, parts).await {
        Ok((listener, way)) => accept(&listener, &way).await,
        // Its listener goes with it, so that the others get its share.
        Err(error) => tracing::error!(%error, "a worker cannot be started"),
    }
}

async fn begin(listener: std::net::TcpListener, parts: Parts) -> io::Result<(AsyncFd<TcpListener>, Rc<ShortWay>)> {
    let hub = Hub::start(&parts.log, &parts.config.stream, parts.drain.clone())?;
    let edge = web::Data::new(Edge {
        config: parts.config,
        log: parts.log,
        registry: parts.registry,
        connections: parts.connections,
        hub,
        under_way: parts.drain.done.clone(),
        draining: parts.drain.begin,
    });
    let full = full_server(&edge).await?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; a listener owns its descriptor and never changes it"
    )]
    let listener = AsyncFd::with_interest(TcpListener::from_std(listener), Interest::READABLE)?;
    Ok((listener, ShortWay::new(edge, full)))
}

/// The HTTP server for everything that is not plain.
async fn full_server(edge: &web::Data<Edge>) -> io::Result<FullServer> {
    let (data, cors) = (web::Data::clone(edge), edge.config.cors.clone());
    let app = move || {
        let app = App::new().configure(http::routes).app_data(web::Data::clone(&data));
        app.wrap(Condition::new(cors.origins != Origins::default(), http::cors(&cors)))
    };
    let app = app().into_factory().map_err(|error: actix_web::Error| error.error_response());
    let service = HttpService::build()
        .keep_alive(KeepAlive::Timeout(edge.config.server.keep_alive))
        .h1_allow_half_closed(false)
        // An answer that comes before the body is through, such as a 413, would be lost to a reset; so the rest is read
        // and dropped, for so long.
        .client_disconnect_timeout(LINGER)
        .on_connect_ext(|carrier: &Carrier, data| drop(data.insert(carrier.clone())))
        .finish(actix_service::map_config(app, |()| AppConfig::default()));
    let service = service.new_service(()).await.map_err(|()| io::Error::other("the HTTP server cannot be started"))?;
    Ok(Box::new(move |carrier, remote: SocketAddr| {
        // An error is the end of that connection, which is all there is to do about it.
        service.call((carrier, Protocol::Http1, Some(remote))).map(drop).boxed_local()
    }))
}

async fn accept(listener: &AsyncFd<TcpListener>, way: &Rc<ShortWay>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepted = 0;
    while let Ok(place) = Arc::clone(&room).acquire_owned().await {
        let (socket, remote) = match next(listener).await {
            Ok(connection) => connection,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => {
                tracing::warn!(%error, "no connection can be accepted; the limit of open files (ulimit -n) may be too low");
                sleep(EXHAUSTED).await;
                continue;
            }
        };
        let way = Rc::clone(way);
        spawn_local(async move {
            way.serve(socket.into(), remote).await;
            drop(place);
        });
        accepted += 1;
        if accepted % ACCEPTS == 0 {
            yield_now().await;
        }
    }
}

async fn next(listener: &AsyncFd<TcpListener>) -> io::Result<(TcpStream, SocketAddr)> {
    loop {
        let mut ready = listener.readable().await?;
        if let Ok(accepted) = ready.try_io(|listener| listener.get_ref().accept()) {
            return accepted;
        }
    }
}

/// Whether it is only that a peer has gone before it was accepted.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
