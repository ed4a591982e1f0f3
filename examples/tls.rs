//! Serves over TLS with a certificate that it makes itself, and asks itself. Both ends show certificates.
//!
//! ```text
//! cargo run --release --features tls --example tls
//! cargo run --release --features tls --example tls -- --serve 127.0.0.1:7443
//! ```
//!
//! With `--serve`, it writes what clients need to `roots.pem`, `client.pem` and `client-key.pem`, and goes on until it is interrupted:
//!
//! ```text
//! openssl s_client -connect 127.0.0.1:7443 -servername localhost -CAfile roots.pem -cert client.pem -key client-key.pem
//! ```

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::error::Error;
use std::sync::mpsc::{self, Sender};
use std::time::Duration;
use trochus::net::{CloseReason, Handler, Io, ListenOptions, StreamOptions};
use trochus::tls::{self, Identity, Roots};
use trochus::{Reactor, Runtime};

/// A certificate and its key, as PEM.
struct Pem {
    certificate: String,
    key: String,
}

impl Pem {
    fn identity(&self) -> trochus::Result<Identity> {
        Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes())
    }
}

/// Somebody who certifies others.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Authority(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn certify(&self, name: &str) -> Result<Pem, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new([name.to_owned()])?.signed_by(&key, &self.0)?;
        Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// Sends back what it gets.
struct Echo;

impl Handler for Echo {
    fn on_open(&mut self, io: &mut Io<'_>) {
        println!("server: {} came, {:?}", io.peer_addr(), io.tls());
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, bytes: &[u8]) -> usize {
        io.write(bytes);
        bytes.len()
    }
}

/// Says something and waits for the end.
struct Ask {
    answer: Vec<u8>,
    tell: Sender<(Vec<u8>, CloseReason)>,
}

impl Handler for Ask {
    fn on_open(&mut self, io: &mut Io<'_>) {
        println!("client: {:?}", io.tls());
        io.write(b"hello over TLS");
        io.shutdown_write();
    }

    fn on_bytes(&mut self, _: &mut Io<'_>, bytes: &[u8]) -> usize {
        self.answer.extend_from_slice(bytes);
        bytes.len()
    }

    fn on_close(&mut self, reason: &CloseReason, _: &mut Reactor) {
        let _ = self.tell.send((std::mem::take(&mut self.answer), reason.clone()));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let serves = match std::env::args().skip(1).collect::<Vec<_>>().as_slice() {
        [] => None,
        [option, address] if option == "--serve" => Some(address.clone()),
        _ => return Err("usage: tls [--serve ADDRESS]".into()),
    };
    let authority = Authority::new()?;
    let roots = Roots::from_pem(authority.0.pem().as_bytes())?;
    let (server, client) = (authority.certify("localhost")?, authority.certify("me")?);

    let runtime = Runtime::new()?;
    let tls = tls::Server::of([server.identity()?])?.require_client_certificates(roots.clone())?;
    let options = ListenOptions::new().tls(tls.clone());
    let address = serves.as_deref().unwrap_or("127.0.0.1:0");
    let server = runtime.listen_with(&options, address, |_peer| Echo)?;
    if serves.is_some() {
        std::fs::write("roots.pem", authority.0.pem())?;
        std::fs::write("client.pem", &client.certificate)?;
        std::fs::write("client-key.pem", &client.key)?;
        println!("serving on {}", server.local_addr());
        runtime.run_until_interrupted()?;
        return Ok(());
    }

    let asks = tls::Client::new(roots)?.server_name("localhost")?.identity(client.identity()?)?;
    let options = StreamOptions::new().tls(asks);
    for _ in 0..2 {
        let (tell, told) = mpsc::channel();
        let ask = move || Ask { answer: Vec::new(), tell };
        runtime.connect_with(&options, server.local_addr().clone(), ask)?;
        let (answer, reason) = told.recv_timeout(Duration::from_secs(10))?;
        println!("client: {:?}, {reason}", String::from_utf8_lossy(&answer));
        // The second connection meets another certificate, and its client resumes its session all the same.
        tls.reload([authority.certify("localhost")?.identity()?])?;
    }
    Ok(())
}
