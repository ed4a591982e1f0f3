//! Whose certificates are shown, and whose are accepted.

use crate::support::*;
use rustls::pki_types::CertificateDer;
use std::io::{Read, Write};
use std::sync::Arc;
use trochus::net::{Address, CloseReason, StreamOptions};
use trochus::tls::{Client, Identity, Roots, Server};

fn shown(client: &crate::support::Client) -> &CertificateDer<'static> {
    &client.conn.peer_certificates().unwrap()[0]
}

#[test]
fn the_name_that_is_asked_for_decides() {
    on_each_backend(|runtime| {
        let others = [AUTHORITY.make(&["a.example"]), AUTHORITY.make(&["*.b.example", "b.example"])];
        let identities = [LOCALHOST.identity(), others[0].identity(), others[1].identity()];
        let (server, log) = serve(runtime, Server::of(identities).unwrap());
        let config = Arc::new(client_config(ALL));
        for (name, made) in [
            ("localhost", &*LOCALHOST),
            ("a.example", &others[0]),
            ("b.example", &others[1]),
            ("x.b.example", &others[1]),
            // An address is no name, so that it gets the first.
            ("127.0.0.1", &*LOCALHOST),
        ] {
            let mut client = connect_with(&server, &config, name);
            echoes(&mut client, b"x");
            assert!(shown(&client).as_ref() == made.der(), "{name}");
            let asked = log.opened().server_name().map(str::to_owned);
            assert_eq!(asked.as_deref(), Some(name).filter(|name| *name != "127.0.0.1"));
            drop(client);
            log.closed();
        }
        // Somebody else's name gets the first one's, and is not content.
        let mut client = connect_with(&server, &config, "c.example");
        assert!(client.write_all(b"x").is_err());
        assert!(matches!(log.closed(), CloseReason::Tls(error) if error.is_told_by_peer()));
    });
}

#[test]
fn certificates_are_reloaded_while_connections_are_open() {
    on_each_backend(|runtime| {
        let tls = server();
        let (server, log) = serve(runtime, tls.clone());
        let mut before = connect(&server, client_config(ALL));
        echoes(&mut before, b"before");
        log.opened();
        let fresh = AUTHORITY.make(&["localhost"]);
        tls.reload([fresh.identity()]).unwrap();
        assert!(tls.reload([]).is_err(), "and then the last ones stay");
        let mut after = connect(&server, client_config(ALL));
        echoes(&mut after, b"after");
        assert!(shown(&before).as_ref() == LOCALHOST.der() && shown(&after).as_ref() == fresh.der());
        echoes(&mut before, b"and on");
    });
}

fn client_with(identity: Option<&Made>) -> rustls::ClientConfig {
    let mut config = client_config(ALL);
    if let Some(made) = identity {
        let (chain, key) = made.ders();
        let key = rustls::crypto::ring::sign::any_supported_type(&key).unwrap();
        let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    }
    config
}

#[test]
fn clients_show_their_certificates_or_are_refused() {
    on_each_backend(|runtime| {
        let (right, stranger) = (AUTHORITY.make(&["me"]), Authority::new("nobody's").make(&["me"]));
        for required in [true, false] {
            let tls = if required {
                server().require_client_certificates(roots())
            } else {
                server().accept_client_certificates(roots())
            };
            let (server, log) = serve(runtime, tls.unwrap());
            let mut client = connect(&server, client_with(Some(&right)));
            echoes(&mut client, b"x");
            assert_eq!(log.opened().peer_certificates().next(), Some(&right.der()[..]));
            drop(client);
            log.closed();

            let mut client = connect(&server, client_with(Some(&stranger)));
            let outcome = client.write_all(b"x").and_then(|()| client.read(&mut [0]));
            assert!(outcome.unwrap_err().to_string().contains("UnknownCA"), "an alert says why");
            let reason = log.closed();
            assert!(matches!(reason, CloseReason::Tls(error) if error.is_about_peers_certificate()));

            let mut client = connect(&server, client_with(None));
            if required {
                let outcome = client.write_all(b"x").and_then(|()| client.read(&mut [0]));
                assert!(outcome.unwrap_err().to_string().contains("CertificateRequired"));
                let reason = log.closed();
                assert!(matches!(reason, CloseReason::Tls(error) if error.is_about_peers_certificate()));
            } else {
                echoes(&mut client, b"x");
                assert_eq!(log.opened().peer_certificates().len(), 0);
            }
        }
    });
}

#[test]
fn both_ends_of_ours_know_each_other() {
    on_each_backend(|runtime| {
        let me = AUTHORITY.make(&["me"]);
        let (server, served) = serve(runtime, server().require_client_certificates(roots()).unwrap());
        let (log, recorder) = log();
        let tls = client().identity(me.identity()).unwrap();
        let address = server.local_addr().clone();
        let options = StreamOptions::new().tls(tls);
        let handle = runtime.connect_with(&options, address, || Echo(recorder)).unwrap();
        assert_eq!(log.opened().peer_certificates().next(), Some(&LOCALHOST.der()[..]));
        assert_eq!(served.opened().peer_certificates().next(), Some(&me.der()[..]));
        handle.close().unwrap();
        assert!(matches!(log.closed(), CloseReason::Closed));
    });
}

#[test]
fn servers_that_are_not_to_be_trusted_are_not() {
    on_each_backend(|runtime| {
        let (server, served) = serve(runtime, server());
        let address = || server.local_addr().clone();
        let strange = Roots::from_pem(Authority::new("another").pem().as_bytes()).unwrap();
        let named =
            |roots: &Roots, name: &str| Client::new(roots.clone()).unwrap().server_name(name).unwrap();
        for (tls, why) in [
            (named(&strange, "localhost"), "UnknownIssuer"),
            (named(&roots(), "other.example"), "not valid for name"),
        ] {
            let options = StreamOptions::new().tls(tls);
            let error = runtime.connect_with(&options, address(), || Echo(log().1)).unwrap_err();
            assert!(error.to_string().contains(why), "{error}");
            assert!(matches!(served.closed(), CloseReason::Tls(error) if error.is_told_by_peer()));
        }
        // Without a name, the address has to be in the certificate, as it is.
        let options = StreamOptions::new().tls(Client::new(roots()).unwrap());
        runtime.connect_with(&options, address(), || Echo(log().1)).unwrap().close().unwrap();
        let unnamed = runtime.connect_with(&options, Address::Unix("/nowhere".into()), || Echo(log().1));
        assert!(unnamed.is_err());
    });
}

#[test]
fn what_cannot_be_used_is_refused_at_once() {
    let made = AUTHORITY.make(&["localhost"]);
    let (pem, key) = (made.certificate.as_bytes(), made.key.as_bytes());
    for (chain, key, why) in [
        (pem, LOCALHOST.key.as_bytes(), "key"),
        (pem, pem, "private key"),
        (key, key, "no certificate"),
        (&b"-----BEGIN CERTIFICATE-----\nx"[..], key, "PEM"),
    ] {
        let error = Identity::from_pem(chain, key).unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    assert!(Server::from_pem(pem, key).is_ok() && Roots::from_pem(b"").is_err());
    assert!(Server::from_pem_files("/nowhere", "/nowhere").unwrap_err().to_string().contains("/nowhere"));
    assert!(Client::new(roots()).unwrap().server_name("not a name").is_err());
}
