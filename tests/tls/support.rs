//! Certificates, peers that speak TLS by rustls over plain sockets, and handlers that tell what they see.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::ClientConnection;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ServerConnection;
use rustls::{ClientConfig, ConnectionCommon, RootCertStore, ServerConfig, StreamOwned};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};
use trochus::net::{Address, CloseReason, Handler, Io, ListenOptions, Server, StreamOptions};
use trochus::tls::{self, Identity, Roots};
use trochus::{Backend, Reactor, Runtime};

/// How long anything may take that must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a test on each backend, and fails if it hangs.
pub(crate) fn on_each_backend(test: impl Fn(&Runtime) + Clone + Send + 'static) {
    for backend in Backend::available() {
        let test = test.clone();
        let (done, ended) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = Runtime::builder().backend(backend).reactors(2).build().unwrap();
            test(&runtime);
            runtime.shutdown(Duration::ZERO).unwrap();
            let _ = done.send(());
        });
        if ended.recv_timeout(PATIENCE * 2) == Err(RecvTimeoutError::Timeout) {
            panic!("hangs on {backend}");
        }
        if let Err(panic) = thread.join() {
            eprintln!("on {backend}:");
            resume_unwind(panic);
        }
    }
}

/// Waits for something that other threads bring about.
#[track_caller]
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Certifies others.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM.
#[derive(Clone)]
pub(crate) struct Made {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn make(&self, names: &[&str]) -> Made {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).unwrap();
        params.distinguished_name.push(DnType::CommonName, names[0].as_str());
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Made { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Made {
    pub(crate) fn identity(&self) -> Identity {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes()).unwrap()
    }

    /// As rustls wants it.
    pub(crate) fn ders(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        use rustls::pki_types::pem::PemObject;
        let chain = CertificateDer::pem_slice_iter(self.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        (chain.map(Result::unwrap).collect(), key)
    }

    pub(crate) fn der(&self) -> Vec<u8> {
        self.ders().0[0].to_vec()
    }
}

/// Whom the tests trust.
pub(crate) static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::new("the tests' authority"));

pub(crate) static LOCALHOST: LazyLock<Made> = LazyLock::new(|| AUTHORITY.make(&["localhost", "127.0.0.1"]));

pub(crate) fn roots() -> Roots {
    Roots::from_pem(AUTHORITY.pem().as_bytes()).unwrap()
}

pub(crate) fn server() -> tls::Server {
    tls::Server::of([LOCALHOST.identity()]).unwrap()
}

pub(crate) fn client() -> tls::Client {
    tls::Client::new(roots()).unwrap().server_name("localhost").unwrap()
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) type Versions = &'static [&'static rustls::SupportedProtocolVersion];

pub(crate) const ALL: Versions = rustls::ALL_VERSIONS;
pub(crate) const TLS12: Versions = &[&rustls::version::TLS12];
pub(crate) const TLS13: Versions = &[&rustls::version::TLS13];

/// What a client of rustls' own needs to trust the tests' servers.
pub(crate) fn client_config(versions: Versions) -> ClientConfig {
    let mut store = RootCertStore::empty();
    store.add(AUTHORITY.0.der().clone()).unwrap();
    ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth()
}

pub(crate) fn server_config(versions: Versions) -> ServerConfig {
    let (chain, key) = LOCALHOST.ders();
    ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

pub(crate) fn localhost() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

pub(crate) fn plain(address: &Address) -> SocketAddr {
    let Address::Tcp(address) = address else { panic!("not a TCP address: {address}") };
    *address
}

/// A socket that speaks no TLS.
pub(crate) fn dial(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(plain(server.local_addr())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) type Client = StreamOwned<ClientConnection, TcpStream>;

/// A client of rustls' own, that is connected to a server of ours.
pub(crate) fn connect(server: &Server, config: ClientConfig) -> Client {
    connect_with(server, &Arc::new(config), "localhost")
}

pub(crate) fn connect_with(server: &Server, config: &Arc<ClientConfig>, name: &'static str) -> Client {
    let name = ServerName::try_from(name).unwrap();
    StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), dial(server))
}

/// A server of rustls' own: the address, and the first connection.
pub(crate) fn accept(
    config: ServerConfig,
) -> (SocketAddr, thread::JoinHandle<StreamOwned<ServerConnection, TcpStream>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepted = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ServerConnection::new(Arc::new(config)).unwrap(), stream)
    });
    (address, accepted)
}

/// Ends the output with close_notify, and leaves the socket open.
pub(crate) fn end_output<C, D>(stream: &mut StreamOwned<C, TcpStream>)
where
    C: std::ops::DerefMut<Target = ConnectionCommon<D>>,
    D: rustls::SideData,
{
    stream.conn.send_close_notify();
    while stream.conn.wants_write() {
        stream.conn.write_tls(&mut stream.sock).unwrap();
    }
}

#[track_caller]
pub(crate) fn receive(stream: &mut impl Read, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

#[track_caller]
pub(crate) fn receive_to_end(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

#[track_caller]
pub(crate) fn echoes(stream: &mut (impl Read + Write), bytes: &[u8]) {
    stream.write_all(bytes).unwrap();
    stream.flush().unwrap();
    assert!(receive(stream, bytes.len()) == bytes);
}

/// Bytes among which those that are missing or twice there show.
pub(crate) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// What a handler saw.
#[derive(Debug)]
pub(crate) enum Seen {
    Opened(Option<tls::Info>),
    Bytes(Vec<u8>),
    End,
    Closed(CloseReason),
}

#[derive(Clone)]
pub(crate) struct Recorder(Arc<Mutex<Sender<Seen>>>);

pub(crate) struct Log(Receiver<Seen>);

pub(crate) fn log() -> (Log, Recorder) {
    let (send, receive) = mpsc::channel();
    (Log(receive), Recorder(Arc::new(Mutex::new(send))))
}

impl Log {
    #[track_caller]
    pub(crate) fn next(&self) -> Seen {
        self.0.recv_timeout(PATIENCE).expect("something happens")
    }

    #[track_caller]
    pub(crate) fn opened(&self) -> tls::Info {
        match self.next() {
            Seen::Opened(Some(info)) => info,
            other => panic!("not opened with TLS: {other:?}"),
        }
    }

    /// All bytes up to the end or the close, and which of them it was.
    #[track_caller]
    pub(crate) fn rest(&self) -> (Vec<u8>, Seen) {
        let mut bytes = Vec::new();
        loop {
            match self.next() {
                Seen::Bytes(more) => bytes.extend(more),
                Seen::Opened(_) => {}
                other => return (bytes, other),
            }
        }
    }

    #[track_caller]
    pub(crate) fn closed(&self) -> CloseReason {
        loop {
            if let Seen::Closed(reason) = self.next() {
                return reason;
            }
        }
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.0.try_recv().is_err()
    }
}

impl Recorder {
    pub(crate) fn tell(&self, seen: Seen) {
        let _ = self.0.lock().unwrap().send(seen);
    }
}

/// Tells everything, and echoes.
pub(crate) struct Echo(pub(crate) Recorder);

impl Handler for Echo {
    fn on_open(&mut self, io: &mut Io<'_>) {
        self.0.tell(Seen::Opened(io.tls().cloned()));
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        self.0.tell(Seen::Bytes(bytes.to_vec()));
        bytes.len()
    }

    fn on_end(&mut self, io: &mut Io<'_>) {
        self.0.tell(Seen::End);
        io.close();
    }

    fn on_close(&mut self, reason: &CloseReason, _: &mut Reactor) {
        self.0.tell(Seen::Closed(reason.clone()));
    }
}

pub(crate) fn serve(runtime: &Runtime, tls: tls::Server) -> (Server, Log) {
    serve_with(runtime, tls, StreamOptions::new())
}

pub(crate) fn serve_with(runtime: &Runtime, tls: tls::Server, stream: StreamOptions) -> (Server, Log) {
    let (log, recorder) = log();
    let options = ListenOptions::new().tls(tls).stream(stream);
    let server = runtime.listen_with(&options, "127.0.0.1:0", move |_| Echo(recorder.clone())).unwrap();
    (server, log)
}
