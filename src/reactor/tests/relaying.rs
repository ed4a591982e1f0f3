//! Two connections that are joined.

use super::*;
use crate::reactor::stream::relay::Relayed;

/// Takes nothing until it is replaced.
struct Waiting {
    opened: Rc<RefCell<Vec<(usize, ConnectionId)>>>,
    index: usize,
    pauses: bool,
    /// What it says of its own, before they are joined.
    says: usize,
}

const OWN: u8 = 255;

impl Handler for Waiting {
    fn on_open(&mut self, io: &mut Io<'_>) {
        if self.pauses {
            io.pause_reading();
        }
        io.write(&vec![OWN; self.says]);
        self.opened.borrow_mut().push((self.index, io.id()));
    }

    fn on_bytes(&mut self, io: &mut Io<'_>, _bytes: &[u8]) -> usize {
        io.pause_reading();
        0
    }

    fn on_end(&mut self, _io: &mut Io<'_>) {}
}

/// Each peer gets all that the other one sends and sees the end, or a beginning and no end; no more waits than may; both connections
/// end; and what was passed on is counted.
#[test]
fn a_relay_passes_on_everything_or_says_so() {
    for_each_seed(SEEDS / 2, |seed| {
        let mut rng = Rng::with_seed(seed);
        let (mut reactor, world) = reactor(seed, &mut rng);
        let resets = rng.bool();
        let mut sent = Vec::new();
        for number in 0..2 {
            let mut peer = arriving(number, &mut rng, 400);
            peer.sends.push_front(number as u8);
            peer.resets_after = (resets && rng.bool()).then(|| rng.usize(1..200));
            sent.push(peer.sends.iter().copied().collect::<Vec<u8>>());
            world.borrow_mut().answering.push_back(peer);
        }
        let resets = world.borrow().answering.iter().any(|peer| peer.resets_after.is_some());
        // By nature a receive is as large as its buffer; what was on its way before they were joined is beside the limit.
        let careful = if rng.bool() { 0 } else { usize::MAX };
        // Their own output may keep them from reading when they are joined.
        let soft = if rng.bool() { 1 << 20 } else { rng.usize(1..300) };
        let options = StreamOptions::new().reading(rng.usize(1..200), careful).output_limits(soft, 1 << 20);
        let opened = Rc::new(RefCell::new(Vec::new()));
        let says = if rng.bool() { 0 } else { rng.usize(1..1_000) };
        for index in 0..2 {
            let (opened, pauses) = (opened.clone(), rng.bool());
            reactor.connect(&options, &somewhere(), Waiting { opened, index, pauses, says });
        }
        let (mut delay, limit) = (rng.usize(0..20), rng.usize(1..500));
        let told = Rc::new(RefCell::new(Vec::<Relayed>::new()));
        let mut joined = false;
        step_until(&mut reactor, |reactor| {
            let both = opened.borrow().clone();
            if let [(first, one), (_, other)] = both[..] {
                if delay == 0 && !joined {
                    let (one, other) = if first == 0 { (one, other) } else { (other, one) };
                    let told = told.clone();
                    joined = reactor.relay(one, other, limit, move |end, _| told.borrow_mut().push(end));
                    // Without it, one of them has gone.
                    assert!(joined || resets);
                    if !joined {
                        return true;
                    }
                }
                delay = delay.saturating_sub(1);
            }
            let waits = |id| {
                let found = reactor.connections.get(id);
                found.map_or(0, |found| found.link.pending_output().max(found.link.inbox.len()))
            };
            assert!(reactor.connections.ids().into_iter().all(|id| waits(id) <= limit + 300 + says));
            // One of them may not even be established.
            !told.borrow().is_empty() || !joined && reactor.connections() < 2
        });
        if !joined {
            reactor.begin_drain(Duration::ZERO);
        }
        check_the_end(&mut reactor, &world);
        assert_eq!(told.borrow().len(), usize::from(joined));
        let world = world.borrow();
        let received = |number: usize| {
            // The first byte of each says who sent it, and so which connection had it.
            let peer = world.gone.iter().find(|peer| peer.number == number);
            peer.map(|peer| (peer.received.clone(), peer.saw_end)).unwrap_or_default()
        };
        for number in 0..2 {
            let (heard, saw_end) = received(number);
            let said = &[&vec![OWN; says][..], &sent[1 - number]].concat();
            assert!(said.starts_with(&heard), "{number} heard what was not said");
            assert!(
                !joined || !saw_end || *said == heard,
                "{number} took {} of {} for all",
                heard.len(),
                said.len()
            );
            assert!(
                resets || !joined || saw_end && *said == heard,
                "{number} heard {} of {}",
                heard.len(),
                said.len()
            );
        }
        if let [Relayed { forth, back, .. }] = told.borrow()[..]
            && !resets
        {
            let (first, second) = (sent[0].len() as u64, sent[1].len() as u64);
            assert!([(first, second), (second, first)].contains(&(forth, back)));
        }
    });
}
