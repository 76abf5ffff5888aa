//! A worker: a thread with its own listener, HTTP server and hub, and the topics it was the first to use.

use std::{
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, mpsc::Sender},
    time::Duration,
};

use actix_http::{HttpService, KeepAlive, Protocol};
use actix_service::{IntoServiceFactory as _, Service as _, ServiceFactory as _, ServiceFactoryExt as _};
use actix_web::{App, dev::AppConfig, web};
use futures_util::FutureExt as _;
use mio::net::{TcpListener, TcpStream};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::{spawn_local, yield_now},
    time::sleep,
};

use crate::{
    config::Config,
    http::{Edge, Fallback, FastPath, PendingSlots, fallback},
    hub::{Carrier, Drain, HubHandle, Unsent},
    limits::{Connections, PendingConnections, RequestBytes},
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
    /// What slow subscribers of all workers are in the middle of.
    pub(super) unsent: Arc<Unsent>,
    pub(super) drain: Drain,
    pub(super) bytes: Arc<RequestBytes>,
    /// Connections that are not yet, or will never be, a subscriber's.
    pub(super) pending: Arc<PendingConnections>,
}

/// Connections accepted before all else has its turn: each costs far more when it is served.
const ACCEPTS: usize = 16;
/// How long a worker that has no descriptor left waits for one.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// How long a client may go on sending a body that has been answered already.
const LINGER: Duration = Duration::from_secs(2);

/// Serves what comes to `listener` for as long as the thread's runtime lives; tells `started` that it does, or why not.
pub(super) async fn run(listener: std::net::TcpListener, parts: Parts, started: Sender<io::Result<()>>) {
    let begun = begin(listener, parts).await;
    // Whoever waits for it has ended itself when this fails.
    match begun {
        Ok((listener, fast)) => {
            started.send(Ok(())).ok();
            drop(started);
            accept(&listener, &fast).await;
        }
        Err(error) => drop(started.send(Err(error))),
    }
}

async fn begin(listener: std::net::TcpListener, parts: Parts) -> io::Result<(AsyncFd<TcpListener>, Rc<FastPath>)> {
    let pending = PendingSlots::new(parts.pending);
    let hub = HubHandle::start(&parts.log, &parts.config.stream, &parts.unsent, parts.drain.clone())?;
    let edge = Rc::new(Edge {
        config: parts.config,
        log: parts.log,
        registry: parts.registry,
        connections: parts.connections,
        bytes: parts.bytes,
        hub,
        under_way: parts.drain.done.clone(),
        draining: parts.drain.begin,
    });
    let fallback = start_fallback(&edge).await?;
    #[expect(
        deprecated,
        reason = "its successor is unsafe to call; a listener owns its descriptor and never changes it"
    )]
    let listener = AsyncFd::with_interest(TcpListener::from_std(listener), Interest::READABLE)?;
    Ok((listener, FastPath::new(edge, fallback, pending)))
}

/// The HTTP server for everything that is not plain.
async fn start_fallback(edge: &Rc<Edge>) -> io::Result<Fallback> {
    let edge = Rc::clone(edge);
    let answer = move |request, payload| fallback::answer(Rc::clone(&edge), request, payload);
    let app = App::new().default_service(web::to(answer));
    let app = app.into_factory().map_err(|error: actix_web::Error| error.error_response());
    let service = HttpService::build()
        // The next request does not come this way by itself (`hub::Carrier`): there is nothing to wait for. A timer would
        // run while a slow client takes the response.
        .keep_alive(KeepAlive::Os)
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

async fn accept(listener: &AsyncFd<TcpListener>, fast: &Rc<FastPath>) {
    let (mut accepted, mut exhausted) = (0, false);
    loop {
        let (socket, remote) = match next(listener).await {
            Ok(connection) => connection,
            Err(error) if is_exhaustion(&error) => {
                if !std::mem::replace(&mut exhausted, true) {
                    tracing::error!(%error, "no connection can be accepted; raise the limit of open files (ulimit -n)");
                }
                // A silent connection gives up its descriptor when its task has had its turn.
                if fast.evict_idle() {
                    yield_now().await;
                } else {
                    sleep(EXHAUSTED).await;
                }
                continue;
            }
            // Of that one connection, whose peer has gone.
            Err(_) => continue,
        };
        exhausted = false;
        match fast.admit(remote) {
            Ok(place) => drop(spawn_local(Rc::clone(fast).serve(socket.into(), remote, place))),
            Err(problem) => fast.reject(socket.into(), problem),
        }
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

/// Whether the process or the system has no room for another connection.
fn is_exhaustion(error: &io::Error) -> bool {
    let codes = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error.raw_os_error().is_some_and(|code| codes.contains(&code))
}
