//! A TCP proxy on loopback between a program and its server, in which the weather changes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

/// How long a look at the weather may be old.
const GLANCE: Duration = Duration::from_millis(5);

pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    /// Ends the connections with it.
    _runtime: Runtime,
}

struct Shared {
    weather: Mutex<Weather>,
    /// Connections end when this changes.
    cuts: watch::Sender<u64>,
    connected: AtomicU64,
    /// Connections with a lower number than this hear nothing any more, and are not closed.
    dead_below: AtomicU64,
    /// Nobody is let in.
    closed: AtomicBool,
}

struct Weather {
    still_until: Instant,
    byte_by_byte_until: Instant,
    late_until: Instant,
    late: Duration,
}

impl Proxy {
    /// Listens for what is meant for a port of this machine.
    pub fn before(upstream: u16) -> Proxy {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let port = listener.local_addr().unwrap().port();
        let now = Instant::now();
        let weather =
            Weather { still_until: now, byte_by_byte_until: now, late_until: now, late: Duration::ZERO };
        let shared = Arc::new(Shared {
            weather: Mutex::new(weather),
            cuts: watch::Sender::new(0),
            connected: AtomicU64::new(0),
            dead_below: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        });
        runtime.spawn(listen(listener, upstream, Arc::clone(&shared)));
        Proxy { port, shared, _runtime: runtime }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections, whatever is on its way.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Whether anybody is let in from now on.
    pub fn close(&self, closed: bool) {
        self.shared.closed.store(closed, Ordering::Relaxed);
    }

    /// Nothing passes for a while; then all of it does.
    pub fn hold(&self, time: Duration) {
        self.shared.weather.lock().unwrap().still_until = Instant::now() + time;
    }

    /// Each byte by itself for a while.
    pub fn dribble(&self, time: Duration) {
        self.shared.weather.lock().unwrap().byte_by_byte_until = Instant::now() + time;
    }

    /// What comes is passed on so late, for a while.
    pub fn delay(&self, late: Duration, time: Duration) {
        let mut weather = self.shared.weather.lock().unwrap();
        (weather.late, weather.late_until) = (late, Instant::now() + time);
    }

    /// What is connected now stays so and hears nothing any more, until [`Proxy::cut`]. New connections are well.
    pub fn forget(&self) {
        let next = self.shared.connected.load(Ordering::Relaxed) + 1;
        self.shared.dead_below.store(next, Ordering::Relaxed);
    }
}

async fn listen(listener: TcpListener, upstream: u16, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        if shared.closed.load(Ordering::Relaxed) {
            continue;
        }
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // A server that is down refuses; so does the proxy, as well as it can.
            let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
            let number = shared.connected.fetch_add(1, Ordering::Relaxed) + 1;
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let mut cuts = shared.cuts.subscribe();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pass(from_client, to_server, &shared, number) => {}
                () = pass(from_server, to_client, &shared, number) => {}
                _ = cuts.changed() => {}
            }
        });
    }
}

/// Passes bytes on until one side ends.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: &Shared, number: u64) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            let now = Instant::now();
            let (is_still, is_slow, late) = {
                let weather = shared.weather.lock().unwrap();
                let late = if now < weather.late_until { weather.late } else { Duration::ZERO };
                (now < weather.still_until, now < weather.byte_by_byte_until, late)
            };
            if is_still || number < shared.dead_below.load(Ordering::Relaxed) {
                tokio::time::sleep(GLANCE).await;
                continue;
            }
            tokio::time::sleep(late).await;
            let (next, others) = rest.split_at(if is_slow { 1 } else { rest.len() });
            if to.write_all(next).await.is_err() {
                return;
            }
            rest = others;
        }
    }
}
