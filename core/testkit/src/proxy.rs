//! A TCP proxy that misbehaves on command, to be put before any server.
//!
//! What can go wrong on the way: slow lines, cut lines, a server that takes a request and never answers, an answer that
//! is lost after the work was done. A test sets [`Faults`] for all connections at once, or a script for the next ones.
//!
//! ```no_run
//! # async fn example() -> std::io::Result<()> {
//! use ingest_testkit::proxy::{Faults, Proxy};
//! let proxy = Proxy::start("127.0.0.1:5432").await?;
//! // The next connection dies in the middle of its answer, all others work.
//! proxy.next(Faults { reset_after: Some(1_000), ..Faults::none() });
//! # Ok(())
//! # }
//! ```

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Bytes read at a time: small enough that a rate limit is even, large enough for full speed.
const CHUNK: usize = 16 * 1024;

/// What happens to a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accept {
    /// It is connected to the server.
    #[default]
    Forward,
    /// It is accepted and nothing ever comes: a half-open connection.
    Silent,
    /// It is accepted and reset at once.
    Reset,
}

/// What happens to the server's answers; requests go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Answers {
    /// They are passed on.
    #[default]
    Pass,
    /// They vanish; the connection stays open and silent.
    Drop,
    /// They vanish, and the connection is reset once the server has answered: the work is done and nobody knows.
    Reset,
}

/// What is wrong with a connection. Times, rates and [`Answers`] may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// What happens to a new connection.
    pub accept: Accept,
    /// What happens to the answers.
    pub answers: Answers,
    /// Added to each chunk, in each direction.
    pub latency: Duration,
    /// Bytes per second in each direction; at least 1.
    pub rate: Option<u64>,
    /// The connection is reset after so many bytes of answers.
    pub reset_after: Option<u64>,
    /// The connection is closed in good order (FIN) after so many bytes of answers: a body that ends too early.
    pub close_after: Option<u64>,
}

impl Faults {
    /// Nothing is wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Connections are accepted and never answered.
    pub fn silent() -> Self {
        Self { accept: Accept::Silent, ..Self::default() }
    }

    /// Connections are reset at once.
    pub fn down() -> Self {
        Self { accept: Accept::Reset, ..Self::default() }
    }
}

struct Shared {
    target: String,
    /// What holds for connections without a script of their own.
    faults: watch::Sender<Faults>,
    script: Mutex<VecDeque<Faults>>,
    loss: Mutex<Option<Loss>>,
    /// Grows by one at each [`Proxy::cut`]: open connections reset when they see it change.
    cuts: watch::Sender<u64>,
    accepted: AtomicU64,
    request_bytes: AtomicU64,
    answer_bytes: AtomicU64,
    lost_answers: AtomicU64,
    changed: Notify,
}

/// Requests whose answer is to be lost.
struct Loss {
    text: Vec<u8>,
    left: u32,
}

/// A running proxy. Dropping it closes the port and resets what is open.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    listener: JoinHandle<()>,
    connections: TaskTracker,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `target` (`host:port`).
    ///
    /// # Errors
    /// When no port can be opened. The target is first connected to by the first client.
    pub async fn start(target: impl ToString) -> io::Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let address = socket.local_addr()?;
        let shared = Arc::new(Shared {
            target: target.to_string(),
            faults: watch::Sender::new(Faults::none()),
            script: Mutex::default(),
            loss: Mutex::default(),
            cuts: watch::Sender::new(0),
            accepted: AtomicU64::new(0),
            request_bytes: AtomicU64::new(0),
            answer_bytes: AtomicU64::new(0),
            lost_answers: AtomicU64::new(0),
            changed: Notify::new(),
        });
        let connections = TaskTracker::new();
        let listener = tokio::spawn(listen(socket, Arc::clone(&shared), connections.clone()));
        Ok(Self { address, shared, listener, connections })
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `http://127.0.0.1:port`.
    pub fn http(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on, for all connections, open ones too (except those that came by [`Proxy::next`]).
    pub fn set(&self, faults: Faults) {
        self.shared.faults.send_replace(faults);
    }

    /// Nothing is wrong any more; scripts that were not used are forgotten. Connections that were silent stay so.
    pub fn heal(&self) {
        self.script().clear();
        self.lose_answers_to("", 0);
        self.set(Faults::none());
    }

    /// The next connection that nobody has claimed yet is treated so, for all its life. Calls queue up.
    pub fn next(&self, faults: Faults) {
        self.script().push_back(faults);
    }

    /// Loses the answers to the next `times` requests that hold `text`, say `PUT /lake/_ingest/`: the server does the
    /// work, the client sees a reset. For protocols without encryption where a request follows its predecessor's answer.
    pub fn lose_answers_to(&self, text: &str, times: u32) {
        let loss = (!text.is_empty()).then(|| Loss { text: text.as_bytes().to_vec(), left: times });
        *self.shared.loss.lock().unwrap_or_else(PoisonError::into_inner) = loss;
    }

    /// Resets every open connection. New ones are accepted.
    pub fn cut(&self) {
        self.shared.cuts.send_modify(|count| *count += 1);
    }

    /// Works for `up`, is down for `down` (open connections are reset), and so on until the guard is dropped.
    #[must_use = "flapping ends when the guard is dropped"]
    pub fn flap(&self, up: Duration, down: Duration) -> Flapping {
        let shared = Arc::clone(&self.shared);
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    shared.faults.send_replace(Faults::none());
                    tokio::time::sleep(up).await;
                    shared.faults.send_replace(Faults::down());
                    shared.cuts.send_modify(|count| *count += 1);
                    tokio::time::sleep(down).await;
                }
            }
        });
        Flapping { task, shared }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections whose answer was lost by [`Answers::Reset`] or [`Answers::Drop`] so far.
    pub fn lost_answers(&self) -> u64 {
        self.shared.lost_answers.load(Ordering::SeqCst)
    }

    /// Bytes that clients sent to the server so far.
    pub fn request_bytes(&self) -> u64 {
        self.shared.request_bytes.load(Ordering::SeqCst)
    }

    /// Bytes of answers that reached clients so far.
    pub fn answer_bytes(&self) -> u64 {
        self.shared.answer_bytes.load(Ordering::SeqCst)
    }

    /// Waits until `reached` holds of this proxy: `proxy.until(|p| p.accepted() == 3).await`.
    pub async fn until(&self, reached: impl Fn(&Self) -> bool) {
        loop {
            let changed = self.shared.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(self) {
                return;
            }
            changed.await;
        }
    }

    fn script(&self) -> std::sync::MutexGuard<'_, VecDeque<Faults>> {
        self.shared.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
        self.connections.close();
        self.cut();
    }
}

/// A proxy that flaps; dropping it heals the line.
pub struct Flapping {
    task: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Drop for Flapping {
    fn drop(&mut self) {
        self.task.abort();
        self.shared.faults.send_replace(Faults::none());
    }
}

async fn listen(socket: TcpListener, shared: Arc<Shared>, connections: TaskTracker) {
    loop {
        // An error here concerns one connection (it was gone before it was accepted), never the port.
        let Ok((client, _)) = socket.accept().await else { continue };
        // Subscribed before it counts as accepted: a cut after that is always seen.
        let cuts = shared.cuts.subscribe();
        let own = shared.script.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let faults = match own {
            Some(faults) => watch::Sender::new(faults).subscribe(),
            None => shared.faults.subscribe(),
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        shared.changed.notify_waiters();
        connections.spawn(serve(client, faults, cuts, Arc::clone(&shared)));
    }
}

/// One connection, from accept to its end.
async fn serve(
    client: TcpStream,
    faults: watch::Receiver<Faults>,
    mut cuts: watch::Receiver<u64>,
    shared: Arc<Shared>,
) {
    let accept = faults.borrow().accept;
    match accept {
        Accept::Reset => return reset(&client),
        Accept::Silent => {
            let _ = cuts.changed().await;
            return reset(&client);
        }
        Accept::Forward => {}
    }
    let server = match TcpStream::connect(&shared.target).await {
        Ok(server) => server,
        Err(_) => return reset(&client),
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let line = Line { faults, lose: AtomicBool::new(false), shared: &shared };
    let end = {
        let requests = line.pump_requests(&mut client_read, &mut server_write);
        let answers = line.pump_answers(&mut server_read, &mut client_write);
        let both = async {
            tokio::pin!(requests, answers);
            let end = tokio::select! {
                end = &mut answers => end,
                () = &mut requests => return answers.await,
            };
            if end == End::Server {
                // Only the server is done; the client may still be sending.
                requests.await;
            }
            end
        };
        tokio::select! {
            end = both => end,
            _ = cuts.changed() => End::Reset,
        }
    };
    if let (End::Reset, Ok(client)) = (end, client_read.reunite(client_write)) {
        reset(&client);
    }
}

/// How a connection ends.
#[derive(Clone, Copy, PartialEq)]
enum End {
    /// The server closed its side.
    Server,
    /// The proxy closes it in good order.
    Close,
    /// The proxy resets it.
    Reset,
}

/// RST instead of FIN when it is dropped: the client sees "connection reset by peer".
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// What both directions of a connection share.
struct Line<'a> {
    faults: watch::Receiver<Faults>,
    /// The answer to the request under way shall be lost.
    lose: AtomicBool,
    shared: &'a Shared,
}

impl Line<'_> {
    async fn pump_requests(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) {
        let mut buffer = vec![0; CHUNK];
        let mut seen = Vec::new();
        while let Ok(n @ 1..) = from.read(&mut buffer[..self.chunk()]).await {
            self.look_for_a_loss(&mut seen, &buffer[..n]);
            self.throttle(n).await;
            if to.write_all(&buffer[..n]).await.is_err() {
                break;
            }
            self.shared.request_bytes.fetch_add(n as u64, Ordering::SeqCst);
            self.shared.changed.notify_waiters();
        }
        let _ = to.shutdown().await;
    }

    async fn pump_answers(&self, from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf) -> End {
        let mut buffer = vec![0; CHUNK];
        let mut sent = 0u64;
        let mut lost = false;
        loop {
            let read = from.read(&mut buffer[..self.chunk()]).await;
            let now = *self.faults.borrow();
            let Ok(mut n @ 1..) = read else {
                if now.answers == Answers::Drop {
                    // The client must go on waiting: nothing ends this connection but the client or a cut.
                    std::future::pending::<()>().await;
                }
                let _ = to.shutdown().await;
                return End::Server;
            };
            let answers = if self.lose.load(Ordering::SeqCst) { Answers::Reset } else { now.answers };
            if answers != Answers::Pass {
                if !std::mem::replace(&mut lost, true) {
                    self.shared.lost_answers.fetch_add(1, Ordering::SeqCst);
                    self.shared.changed.notify_waiters();
                }
                if answers == Answers::Reset {
                    return End::Reset;
                }
                continue;
            }
            let mut end = None;
            for (limit, how) in [(now.reset_after, End::Reset), (now.close_after, End::Close)] {
                let left = limit.map_or(u64::MAX, |limit| limit.saturating_sub(sent));
                if left <= n as u64 {
                    n = usize::try_from(left).expect("at most a chunk");
                    end = Some(how);
                }
            }
            self.throttle(n).await;
            if to.write_all(&buffer[..n]).await.is_err() {
                return End::Server;
            }
            sent += n as u64;
            self.shared.answer_bytes.fetch_add(n as u64, Ordering::SeqCst);
            self.shared.changed.notify_waiters();
            if let Some(end) = end {
                return end;
            }
        }
    }

    /// Arms the loss of the next answer when the request holds the text that [`Proxy::lose_answers_to`] named.
    fn look_for_a_loss(&self, seen: &mut Vec<u8>, bytes: &[u8]) {
        let mut loss = self.shared.loss.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(loss) = loss.as_mut().filter(|loss| loss.left > 0) else { return };
        seen.extend_from_slice(bytes);
        if seen.windows(loss.text.len()).any(|window| window == loss.text) {
            loss.left -= 1;
            seen.clear();
            self.lose.store(true, Ordering::SeqCst);
        }
        // The text may lie across two reads.
        let spare = seen.len().saturating_sub(loss.text.len());
        seen.drain(..spare);
    }

    /// Bytes to read at a time: a tenth of a second's worth under a rate limit, so that the line trickles.
    fn chunk(&self) -> usize {
        let tenth = self.faults.borrow().rate.map_or(CHUNK as u64, |rate| rate / 10);
        usize::try_from(tenth).unwrap_or(CHUNK).clamp(1, CHUNK)
    }

    async fn throttle(&self, bytes: usize) {
        let Faults { latency, rate, .. } = *self.faults.borrow();
        let line = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64));
        let wait = latency + line;
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each line with the line, until the client closes.
    async fn echo() -> SocketAddr {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = socket.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = stream.into_split();
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
        address
    }

    async fn exchange(proxy: &Proxy, bytes: usize) -> io::Result<usize> {
        let mut stream = TcpStream::connect(proxy.address()).await?;
        stream.write_all(&vec![b'x'; bytes]).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer.len())
    }

    #[tokio::test]
    async fn without_faults_every_byte_passes() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        assert_eq!(exchange(&proxy, 300_000).await.unwrap(), 300_000);
        assert_eq!((proxy.request_bytes(), proxy.answer_bytes()), (300_000, 300_000));
    }

    #[tokio::test]
    async fn a_reset_comes_after_so_many_bytes_of_the_answer() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.next(Faults { reset_after: Some(10_000), ..Faults::none() });
        let error = exchange(&proxy, 50_000).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(proxy.answer_bytes(), 10_000);
        assert_eq!(exchange(&proxy, 50_000).await.unwrap(), 50_000, "only one connection was scripted");
    }

    #[tokio::test]
    async fn a_body_that_ends_too_early_ends_in_good_order() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.next(Faults { close_after: Some(7), ..Faults::none() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(&[b'x'; 100]).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.len(), 7);
    }

    #[tokio::test]
    async fn a_named_request_is_done_and_its_answer_is_lost_once() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.lose_answers_to("COMMIT", 1);
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        let mut answer = [0; 6];
        stream.write_all(b"SELECT").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        stream.write_all(b"COM").await.unwrap();
        stream.read_exact(&mut answer[..3]).await.unwrap();
        stream.write_all(b"MIT").await.unwrap();
        let error = stream.read_exact(&mut answer).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!((proxy.lost_answers(), proxy.request_bytes()), (1, 12));
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"COMMIT").await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
    }

    #[tokio::test]
    async fn a_silent_server_never_answers_and_a_cut_ends_the_wait() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.set(Faults::silent());
        let waiting = tokio::spawn({
            let address = proxy.address();
            async move {
                let mut stream = TcpStream::connect(address).await?;
                stream.write_all(b"hello").await?;
                stream.read_u8().await
            }
        });
        proxy.until(|p| p.accepted() == 1).await;
        assert!(!waiting.is_finished());
        proxy.cut();
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn dropped_answers_leave_the_connection_open_and_the_work_done() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.set(Faults { answers: Answers::Drop, ..Faults::none() });
        let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        proxy.until(|p| p.lost_answers() == 1).await;
        assert_eq!(proxy.request_bytes(), 5);
        proxy.heal();
        stream.write_all(b"again").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"again");
    }

    #[tokio::test]
    async fn a_rate_limit_and_latency_slow_a_connection_down() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        proxy.set(Faults { rate: Some(50_000), latency: Duration::from_millis(1), ..Faults::none() });
        let start = std::time::Instant::now();
        assert_eq!(exchange(&proxy, 10_000).await.unwrap(), 10_000);
        // The floor is what the line can carry; how much longer it takes is the machine's affair.
        assert!(start.elapsed() >= Duration::from_millis(200));
    }

    #[tokio::test]
    async fn flapping_lets_a_patient_client_through() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let flapping = proxy.flap(Duration::from_millis(20), Duration::from_millis(20));
        let mut results = Vec::new();
        while !(results.contains(&true) && results.contains(&false)) {
            results.push(exchange(&proxy, 10).await.is_ok_and(|n| n == 10));
            tokio::task::yield_now().await;
        }
        drop(flapping);
        assert_eq!(exchange(&proxy, 10).await.unwrap(), 10);
    }
}
