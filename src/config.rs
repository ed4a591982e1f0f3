//! Every limit and default in one place, checked against each other when the crate is compiled.

mod backend;

pub(crate) use backend::UringFeatures;
pub use backend::{Backend, UringFeature};
use std::time::Duration;

/// Buffers of a reactor's receive pool. Only those in use are ever touched: the kernel has no more than [`POOL_WINDOW`] at first.
pub const POOL_BUFFERS: u16 = 128;

/// Bytes of a receive buffer. 256 KiB moves the most over loopback: fewer, larger copies, and a few buffers of this
/// size still share the second and third level of the cache with the socket's own memory.
pub const POOL_BUFFER_BYTES: usize = 256 << 10;

/// Receive buffers that lie ready for the kernel at first. It takes them in turn, so all of them pass through the cache. Twice as
/// many whenever the kernel found none.
pub const POOL_WINDOW: u16 = 4;

/// Small receive buffers of a reactor on a backend where the kernel picks the buffer. A connection whose messages are
/// small receives into these, so that thousands of them find one each; only those in use are ever touched.
pub const SMALL_BUFFERS: u16 = 4096;

/// Bytes of a small receive buffer. A connection that fills one receives into the large ones from then on.
pub const SMALL_BUFFER_BYTES: usize = 2 << 10;

/// Small receive buffers that lie ready for the kernel at first, as [`POOL_WINDOW`].
pub const SMALL_WINDOW: u16 = 64;

/// A connection that received this often in a row no more than a small buffer holds receives into small ones again.
pub const SMALL_AFTER: u8 = 32;

/// Bytes of one send. What is longer leaves in several, so that progress shows.
pub const SEND_BYTES: usize = 512 << 10;

/// Entries of the submission queue. A full queue is submitted early, so this bounds memory, not operations.
pub const SUBMISSION_ENTRIES: u32 = 512;

/// Entries of the completion queue. One turn can complete every buffer of the pool, a send for each entry of the
/// submission queue, and some accepts, wakes and cancellations. Whoever submits more is made to take completions meanwhile.
pub const COMPLETION_ENTRIES: u32 = 8192;

/// Output of a connection that waits for its peer: from here on its input is not read.
pub const OUTPUT_SOFT_BYTES: usize = 1 << 20;

/// Output of a connection that waits for its peer: beyond this it is closed.
pub const OUTPUT_HARD_BYTES: usize = 64 << 20;

/// Input of a connection that its handler left unconsumed, without having paused: beyond this it is closed.
pub const INPUT_BYTES: usize = 16 << 20;

/// Input of a connection that is read ahead while its handler has paused, or while its output waits: beyond this the kernel holds
/// it, and the peer has to wait.
pub const READ_AHEAD_BYTES: usize = 64 << 10;

/// Bytes of each direction of a relay that may wait for the peer that they go to. A third of it is received at a time: with less,
/// peers are woken more often, and with more, what waits for peers that do not read is more.
pub const RELAY_BYTES: usize = 512 << 10;

/// Input of a connection that is received one buffer at a time, at first and behind each pause: while a pause is likely, no more
/// than one buffer is on its way when it begins. Each counts for at least [`CAREFUL_STEP`].
pub const CAREFUL_BYTES: usize = 32 << 20;

/// What a receive counts for at least, of [`CAREFUL_BYTES`].
pub const CAREFUL_STEP: usize = 64 << 10;

/// Bytes of files that are read ahead of what a connection sends: so much lies in memory of files of any size.
pub const FILE_AHEAD_BYTES: usize = 512 << 10;

/// Bytes of one read of a file, where a connection may read so much ahead twice.
pub const FILE_READ_BYTES: usize = 256 << 10;

/// Files of a connection that wait to be sent: from here on its input is not read.
pub const FILES_WAITING_SOFT: usize = 64;

/// Files of a connection that wait to be sent: no more are taken.
pub const FILES_WAITING: usize = 4096;

/// Memory for reads of files that a reactor keeps for the next one.
pub const FILE_SPARE_BYTES: usize = 4 << 20;

/// Threads that read files for a reactor whose backend cannot. They are started when there is something to read.
pub const FILE_THREADS: usize = 4;

/// What other threads may have handed to a connection that its reactor has not taken over yet.
pub const OUTBOX_BYTES: usize = 16 << 20;

/// Output of polled handlers that one turn of a reactor sends; the others are asked in the next one. With 512 connections
/// that are fed by producers, a quarter faster than asking them all.
pub const POLLED_OUTPUT_BYTES: usize = 64 << 10;

/// Input that one turn of a reactor shows to the handler of one connection; the rest is shown in the next one, behind what others
/// got meanwhile.
pub const SLICE_BYTES: usize = 1 << 20;

/// Input that one turn of a reactor shows to all of its handlers; the rest is shown in the next one.
pub const TURN_BYTES: usize = 8 << 20;

/// How often in a row a connection is [handed over](crate::reactor::Io::hand_over) in one turn of a reactor; whoever is to take
/// over then does so in the next one.
pub const HAND_OVERS: usize = 16;

/// Receive buffers of a reactor with the settings [`embedded`](crate::reactor::ReactorBuilder::embedded).
pub const EMBEDDED_POOL_BUFFERS: u16 = 16;

/// Bytes of one of those.
pub const EMBEDDED_POOL_BUFFER_BYTES: usize = 16 << 10;

/// Input that one turn shows to handlers with these settings: what the pool holds.
pub const EMBEDDED_TURN_BYTES: usize = 256 << 10;

/// How long a turn goes on with these settings.
pub const EMBEDDED_TURN_TIME: Duration = Duration::from_millis(2);

/// Unused vectors that a reactor keeps for the next connection with output.
pub const SPARE_BYTES: usize = 16 << 20;

/// Bytes that all connections of a runtime may hold together, where the machine has four times as much.
pub const MEMORY_BYTES: usize = 256 << 20;

/// While that is short, connections with more output than this are not read.
pub const SHORT_BYTES: usize = 64 << 10;

/// Once connections have been refused for so long because memory is scarce, the next one costs the one that holds the most its life,
/// and then one more each time that so long has passed.
pub const SCARCE_TIME: Duration = Duration::from_secs(1);

/// Connections of one server.
pub const CONNECTIONS: usize = 65_536;

/// Connections that wait to be accepted; the system's own limit (`net.core.somaxconn`) may be lower.
pub const BACKLOG: u32 = 4096;

/// Peers without a connection that a server remembers for their rate; see
/// [`max_rate_per_peer`](crate::reactor::ListenOptions::max_rate_per_peer).
pub const PEERS_REMEMBERED: usize = 65_536;

/// How long a connection attempt may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the handshake of a connection with TLS may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Handshakes that one reactor has going on with connections that it accepted; the others wait for one to end, or for their time.
pub const HANDSHAKES: usize = 1024;

/// How long one of several addresses has to answer before the next one is tried as well (RFC 8305).
pub const CONNECT_STAGGER: Duration = Duration::from_millis(250);

/// How long a connection attempt rests at a Unix-domain server whose backlog is full, on a backend that cannot wait.
pub const CONNECT_RETRY: Duration = Duration::from_millis(5);

/// How long a closed connection waits for its peer's end of stream, so that the peer can read the last output.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection of a server or a runtime that stops lingers, once its peer has confirmed all output and says
/// nothing more, although it does not end its side.
pub const QUIET_TIMEOUT: Duration = Duration::from_millis(250);

/// How long the peer of a closed connection may take none of the output that is left.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the peer of an open connection may take for the rest of a message that it has begun to send.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(60);

/// A message of which so much more has come has that long once more.
pub const MESSAGE_STEP: usize = 64 << 10;

/// How long the peer of an open connection may take none of the output that waits for it.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(120);

/// How long a drain lets connections finish by themselves.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the kernel may take to give back what it holds, at the very end; then it is leaked rather than freed.
pub const REAP_TIMEOUT: Duration = Duration::from_secs(10);

/// No duration counts for more than this: whoever sets a longer one, [`Duration::MAX`] for example, means never.
pub const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The longest that a reactor sleeps without looking round. What the selectors take for a time is not wider than this.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(24 * 60 * 60);

/// How long a listener rests after the process ran out of descriptors or memory.
pub const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// How long a reactor looks for work before it sleeps, when looking has paid off lately.
pub const BUSY_POLL: Duration = Duration::from_micros(50);

/// How long a reactor of [`RuntimeBuilder::latency`](crate::net::RuntimeBuilder::latency) looks for work.
pub const LATENCY_BUSY_POLL: Duration = Duration::from_millis(1);

/// Receives of one connection in one turn on a backend that makes them itself.
pub const RECEIVES_PER_TURN: usize = 16;

/// Accepts of one listener in one turn on a backend that makes them itself.
pub const ACCEPTS_PER_TURN: usize = 64;

/// Sockets that become ready of which one turn hears, on a backend that asks for readiness. With thousands of connections
/// the turns stay short, and a turn's connections and buffers in the cache.
pub const EVENTS_PER_TURN: usize = 32;

/// Requests of one connection that may wait for a late reply.
pub const REQUESTS_IN_PROGRESS: usize = 65_536;

/// Responses of one connection that wait, for the peer to read or for those before them: from here on, in bytes, no more of its
/// requests are taken.
pub const HELD_SOFT_BYTES: usize = 1 << 20;

/// The same: beyond this the connection is closed. Reached only by requests that were taken when little was known of how large
/// responses are.
pub const HELD_HARD_BYTES: usize = 64 << 20;

/// How long a server serves one connection's requests before it looks after the others.
pub const SERVE_SLICE: Duration = Duration::from_millis(1);

/// How long a request may be in progress at a server.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10 * 60);

/// How long a peer may take for the rest of a request that it has begun to send.
pub const HALF_REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How often one kind of fault at servers is worth a line of the log.
pub const FAULT_LOG_INTERVAL: Duration = Duration::from_secs(10);

/// How long a client that was closed or dropped may take until everything is sent and answered.
pub const CLIENT_CLOSE_TIMEOUT: Duration = Duration::from_secs(60);

/// The pause before a client connects again, at first.
pub const RECONNECT_FIRST_DELAY: Duration = Duration::from_millis(10);

/// The longest pause between a client's attempts to connect again.
pub const RECONNECT_LONGEST_DELAY: Duration = Duration::from_secs(1);

/// Attempts to connect again before a client gives up.
pub const RECONNECT_ATTEMPTS: u32 = 10;

/// The longest that a client waits for anything that has a limit at all.
pub const LONGEST_WAIT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Bytes of requests in flight that a client keeps, to send them again if the server did not take them.
pub const RESEND_BYTES: usize = 16 << 20;

/// Bytes of responses to one request that wait at a client for whoever asked.
pub const PARTS_BYTES: usize = 1 << 20;

/// Calls of one client that wait for their response.
pub const CALLS_IN_FLIGHT: usize = 65_536;

/// Requests that a client's producer can have ahead of the reactor.
pub const LANE_ITEMS: usize = 8192;

/// The longest that a client's requests linger, however long was asked for.
pub const LONGEST_LINGER: Duration = Duration::from_secs(24 * 60 * 60);

/// Bytes by which one producer of a batcher may be ahead of the consumer, where items are weighed.
pub const LANE_BYTES: usize = 1 << 20;

/// How often a batch that could not be written is tried again before the batcher fails.
pub const BATCH_RETRIES: u32 = 10;

/// How long after the first time; each further pause is twice as long.
pub const FIRST_BATCH_RETRY_PAUSE: Duration = Duration::from_millis(10);

/// The longest of those pauses.
pub const LONGEST_BATCH_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Requests that a reactor takes from one client's lanes in one turn: as many as lie in the lanes of a few producers.
pub const BATCH_ITEMS: usize = 65_536;

const _: () = assert!(HELD_SOFT_BYTES < HELD_HARD_BYTES);
// What is read ahead does not keep input from being read by itself, and one part is read while another one is sent.
const _: () = assert!(FILE_READ_BYTES * 2 <= FILE_AHEAD_BYTES && FILE_AHEAD_BYTES <= OUTPUT_SOFT_BYTES / 2);
const _: () = assert!(FILES_WAITING_SOFT < FILES_WAITING && FILE_READ_BYTES <= FILE_SPARE_BYTES);
// The pool cannot run dry for good: a buffer is held by the kernel, by a completion that has not been handled, or by
// the handler that is running, and the last two end with the turn.
const HELD_BY_HANDLER: usize = 1;
const _: () = assert!(POOL_BUFFERS as usize >= POOL_WINDOW as usize + HELD_BY_HANDLER);
// A ring of buffers has a power of two of them, at most 2^15, and its buffers fill whole pages.
const _: () =
    assert!(POOL_BUFFERS.is_power_of_two() && POOL_WINDOW.is_power_of_two() && POOL_BUFFERS <= 1 << 15);
const _: () = assert!(POOL_BUFFER_BYTES.is_multiple_of(4096));
// Both groups have a range of numbers of their own, and small buffers are much smaller than large ones.
const _: () = assert!(SMALL_BUFFERS.is_power_of_two() && SMALL_BUFFERS <= 1 << 15);
const _: () = assert!(SMALL_BUFFER_BYTES * 4 <= POOL_BUFFER_BYTES);
// A turn's completions find room: the pools' receives, and a send for each entry of the submission queue.
const _: () =
    assert!(COMPLETION_ENTRIES >= POOL_BUFFERS as u32 + SMALL_BUFFERS as u32 + 2 * SUBMISSION_ENTRIES);
// Reading pauses before the connection is given up, with room for what one turn can still bring.
const _: () = assert!(OUTPUT_SOFT_BYTES + POOL_WINDOW as usize * POOL_BUFFER_BYTES < OUTPUT_HARD_BYTES);

/// The shape of a reactor's receive pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PoolConfig {
    pub(crate) buffers: u16,
    pub(crate) buffer_bytes: usize,
    pub(crate) small_buffers: u16,
    pub(crate) small_buffer_bytes: usize,
}

impl PoolConfig {
    /// Whether there is a group of small buffers: not beside buffers that are small themselves.
    #[cfg(target_os = "linux")]
    pub(crate) fn has_small(&self) -> bool {
        self.small_buffers > 0 && self.small_buffer_bytes <= self.buffer_bytes / 4
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig {
            buffers: POOL_BUFFERS,
            buffer_bytes: POOL_BUFFER_BYTES,
            small_buffers: SMALL_BUFFERS,
            small_buffer_bytes: SMALL_BUFFER_BYTES,
        }
    }
}

/// The sizes of a ring's queues.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingEntries {
    pub(crate) submission: u32,
    pub(crate) completion: u32,
}

impl Default for RingEntries {
    fn default() -> Self {
        RingEntries { submission: SUBMISSION_ENTRIES, completion: COMPLETION_ENTRIES }
    }
}

/// The limits of one connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) output_soft: usize,
    pub(crate) output_hard: usize,
    /// Output that is left when the handler is told that there is room. Half of the soft limit unless set.
    pub(crate) low_water: Option<usize>,
    /// Whether output beyond the soft limit keeps input from being read.
    pub(crate) throttles: bool,
    pub(crate) input: usize,
    pub(crate) outbox: usize,
    pub(crate) file_ahead: usize,
    /// Not to be set but by tests.
    pub(crate) read_ahead: usize,
    pub(crate) careful: usize,
}

impl Limits {
    #[inline]
    pub(crate) fn low_water(&self) -> usize {
        self.low_water.unwrap_or(self.output_soft / 2)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            output_soft: OUTPUT_SOFT_BYTES,
            output_hard: OUTPUT_HARD_BYTES,
            low_water: None,
            throttles: true,
            input: INPUT_BYTES,
            outbox: OUTBOX_BYTES,
            file_ahead: FILE_AHEAD_BYTES,
            read_ahead: READ_AHEAD_BYTES,
            careful: CAREFUL_BYTES,
        }
    }
}

/// Whether a reactor looks for work a while before it sleeps. It trades the processor's time for latency: waking a
/// sleeping thread costs 20–30 µs on the machines that were measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Sleeps at once.
    Off,
    /// Looks for up to [`BUSY_POLL`] while that pays off, and not at all when the process has fewer cores than reactors.
    #[default]
    Adaptive,
    /// Looks for this long, always.
    For(Duration),
}
