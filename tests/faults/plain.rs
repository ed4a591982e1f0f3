//! The proxy itself, between plain sockets: each fault is what it says.

use crate::proxy::{Fate, FaultProxy, Faults, Plan};
use crate::support::{PATIENCE, accept, end_output, eventually, listen, reset, watched};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

struct Ends {
    proxy: FaultProxy,
    near: TcpStream,
    far: TcpStream,
    listener: TcpListener,
}

/// A client and a server with the proxy between them.
fn ends(plan: Plan) -> Ends {
    let (listener, address) = listen();
    let proxy = FaultProxy::start(address.parse().unwrap(), move |_| plan.clone()).unwrap();
    let near = dial(&proxy);
    let far = accept(&listener);
    Ends { proxy, near, far, listener }
}

fn dial(proxy: &FaultProxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n.wrapping_mul(2_654_435_761) >> 7) as u8).collect()
}

/// What arrives until the end, and what that is; `None` if it is in good order.
fn rest(stream: &mut TcpStream) -> (Vec<u8>, Option<ErrorKind>) {
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        match stream.read(&mut some) {
            Ok(0) => return (all, None),
            Ok(read) => all.extend_from_slice(&some[..read]),
            Err(error) => return (all, Some(error.kind())),
        }
    }
}

#[test]
fn faults_that_lose_nothing_lose_nothing() {
    watched("the proxy", || {
        let slow = Faults { delay: Duration::from_millis(5), ..Faults::default() };
        let throttled = Faults { rate: Some(1 << 20), ..Faults::default() };
        let single = Faults { chunk: Some(1), ..Faults::default() };
        let gathered = Faults { coalesce: Duration::from_millis(5), ..Faults::default() };
        for faults in [Faults::default(), slow, throttled, single, gathered] {
            let Ends { proxy, mut near, mut far, listener: _listener } = ends(Plan::both(faults.clone()));
            let sent = bytes(100_000);
            let (forth, back) = thread::scope(|scope| {
                let (mut near_in, mut far_in) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let forth = scope.spawn(move || rest(&mut far_in));
                let back = scope.spawn(move || rest(&mut near_in));
                for stream in [&mut near, &mut far] {
                    stream.write_all(&sent).unwrap();
                    end_output(stream);
                }
                (forth.join().unwrap(), back.join().unwrap())
            });
            assert!(forth == (sent.clone(), None) && back == (sent, None), "{faults:?}");
            eventually("it ends", || proxy.open() == 0);
            let counts = proxy.stop();
            assert_eq!((counts.forth_passed, counts.back_passed, counts.broken), (100_000, 100_000, 0));
        }
    });
}

#[test]
fn bytes_come_one_by_one_or_all_together() {
    watched("the proxy", || {
        let single = Plan::both(Faults { chunk: Some(1), rate: Some(2000), ..Faults::default() });
        let Ends { proxy: _proxy, mut near, mut far, listener: _listener } = ends(single);
        near.write_all(&bytes(20)).unwrap();
        let mut some = [0; 64];
        let first = far.read(&mut some).unwrap();
        assert!(first < 20, "{first}");
        let gathered = Plan::both(Faults { coalesce: Duration::from_millis(200), ..Faults::default() });
        let Ends { proxy: _proxy, mut near, mut far, listener: _listener } = ends(gathered);
        near.set_nodelay(true).unwrap();
        for byte in bytes(20) {
            near.write_all(&[byte]).unwrap();
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(far.read(&mut some).unwrap(), 20);
    });
}

#[test]
fn fates_come_behind_exactly_so_many_bytes() {
    watched("the proxy", || {
        let sent = bytes(10_000);
        for (count, fate) in [(0, Fate::Cut), (1234, Fate::Cut), (1234, Fate::Reset), (1234, Fate::Hole)] {
            let plan = Plan { forth: Faults::fated(count as u64, fate), back: Faults::default() };
            let Ends { proxy, mut near, mut far, listener: _listener } = ends(plan);
            near.write_all(&sent).unwrap();
            let (received, end) = match fate {
                Fate::Hole => {
                    let mut received = vec![0; count];
                    far.read_exact(&mut received).unwrap();
                    far.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                    assert!(far.read(&mut [0]).is_err(), "there is more");
                    (received, None)
                }
                _ => rest(&mut far),
            };
            // A reset may overtake what was written.
            assert!(sent[..count].starts_with(&received), "{fate:?}");
            if fate == Fate::Reset {
                assert_eq!(end, Some(ErrorKind::ConnectionReset));
                assert_eq!(rest(&mut near).1, Some(ErrorKind::ConnectionReset));
            } else {
                // The other direction is as it was.
                assert_eq!((received.len(), end), (count, None));
                far.write_all(b"still here").unwrap();
                let mut word = [0; 10];
                near.read_exact(&mut word).unwrap();
                end_output(&near);
                drop(far);
                assert_eq!(rest(&mut near), (vec![], None));
            }
            eventually("it ends", || proxy.open() == 0);
            let counts = proxy.stop();
            let met = match fate {
                Fate::Cut => counts.cuts,
                Fate::Reset => counts.resets,
                Fate::Stall => counts.stalls,
                Fate::Hole => counts.holes,
            };
            assert_eq!((met, counts.forth_passed), (1, count as u64), "{fate:?}");
        }
    });
}

#[test]
fn who_sends_into_a_stall_finds_no_room() {
    watched("the proxy", || {
        let plan = Plan { forth: Faults::fated(10, Fate::Stall), back: Faults::default() };
        let Ends { proxy, mut near, mut far, listener: _listener } = ends(plan);
        near.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
        let block = vec![7; 1 << 20];
        let error = (0..64).find_map(|_| near.write_all(&block).err()).expect("there is room for 64 MiB");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        let mut ten = [0; 10];
        far.read_exact(&mut ten).unwrap();
        far.write_all(b"the other way").unwrap();
        near.read_exact(&mut [0; 13]).unwrap();
        // Whoever gives up is noticed.
        reset(near);
        assert_eq!(rest(&mut far).1, Some(ErrorKind::ConnectionReset));
        assert_eq!(proxy.stop().stalls, 1);
    });
}

#[test]
fn ends_and_resets_are_passed_on_as_what_they_are() {
    watched("the proxy", || {
        let Ends { proxy: _proxy, near, mut far, listener: _listener } = ends(Plan::default());
        reset(near);
        assert_eq!(rest(&mut far).1, Some(ErrorKind::ConnectionReset));
        let Ends { proxy: _proxy, mut near, far, listener: _listener } = ends(Plan::default());
        drop(far);
        assert_eq!(rest(&mut near), (vec![], None));
        let Ends { proxy, mut near, mut far, listener } = ends(Plan::default());
        proxy.reset_all();
        assert_eq!(rest(&mut near).1, Some(ErrorKind::ConnectionReset));
        assert_eq!(rest(&mut far).1, Some(ErrorKind::ConnectionReset));
        drop(listener);
        assert_eq!(rest(&mut dial(&proxy)).1, Some(ErrorKind::ConnectionReset), "there is no upstream");
        assert_eq!(proxy.stop().refused, 1);
    });
}

#[test]
fn a_seed_decides_on_everything() {
    let plans = |seed| (0..200).map(|number| Plan::random(seed, number, 1000)).collect::<Vec<_>>();
    assert_eq!(plans(1), plans(1));
    assert_ne!(plans(1), plans(2));
    let fates = plans(1).into_iter().flat_map(|plan| [plan.forth.fate, plan.back.fate]).flatten();
    let fates: Vec<Fate> = fates.map(|(_, fate)| fate).collect();
    for fate in [Fate::Cut, Fate::Reset, Fate::Stall, Fate::Hole] {
        assert!(fates.contains(&fate), "{fate:?}");
    }
}
