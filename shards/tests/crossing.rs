//! Two nodes that dial each other, links that die at either end first, restarts, and strangers: every interleaving of a few
//! of them. In the end there is one link, the same at both ends; without a fault no link ends, whenever nodes dial; a fault
//! ends one or two, however often they dial; and who proves nothing ends none. Without any one of the rules it is not so.

use iris_shards::id::NodeId;
use iris_shards::link::crossing::{Dial, Up, may_greet, on_hello, on_proof};
use iris_shards::link::{Hello, LinkName, Party, RefuseCode};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// The dialer of a stranger's connections.
const STRANGER: usize = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Frame {
    /// With what HELLO says besides its link's name: the last link.
    Hello(Option<LinkName>),
    Accept,
    Proof,
    Refuse,
}

/// A rule that is not kept, to see that it is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Broken {
    /// A dial says HELLO though the other node's was answered.
    GreetsAnyway,
    /// A dial that nobody has seen counts against the other node's.
    ConnectingIsGreeted,
    /// Whoever has a dial refuses.
    NobodyGivesWay,
    /// Whoever has a dial accepts.
    BothGiveWay,
    /// A proven link always takes the place of the old one.
    ProofIsNotJudged,
    /// HELLO ends what is up.
    HelloReplaces,
    /// HELLO names no last link.
    NoLast,
}

/// A connection that may become the link of that name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Connection {
    dialer: usize,
    /// The last link of the HELLO that the acceptor has read.
    last: Option<LinkName>,
    /// On the way to each end.
    frames: [VecDeque<Frame>; 2],
    /// The ends that have it.
    open: [bool; 2],
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Node {
    boot: u64,
    attempts: u64,
    dial: Option<LinkName>,
    is_greeted: bool,
    /// Answered with ACCEPT, not proven.
    accepted: BTreeSet<LinkName>,
    up: Option<Up>,
    last: Option<LinkName>,
}

/// What may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    /// Dials of each node, at any moment.
    dials: [u8; 2],
    /// Connections that one end loses.
    losses: u8,
    restarts: u8,
    strangers: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    nodes: [Node; 2],
    connections: BTreeMap<LinkName, Connection>,
    budget: Budget,
    /// Links that ended at an end where they were up, though it did not lose them.
    ended: u8,
    /// The node whose packets reach nobody until somebody has dialled it.
    mute: Option<usize>,
    broken: Option<Broken>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Dial(usize),
    Greet(usize),
    Deliver(LinkName, usize),
    /// The end hears that the other end is gone; what it has not read is lost.
    Notice(LinkName, usize),
    /// The end loses the connection; the other end does not know yet.
    Lose(LinkName, usize),
    Restart(usize),
    /// Somebody without the secret says HELLO to this node in the other one's name.
    Stranger(usize),
    /// A handshake that does not go on.
    GiveUp(LinkName, usize),
}

fn id(at: usize) -> NodeId {
    NodeId(at as u32 + 1)
}

fn hello(name: LinkName, last: Option<LinkName>) -> Hello {
    let LinkName { dialer: node, boot, attempt } = name;
    let (region, address) = (String::new(), String::new());
    let (is_edge, is_core, executors) = (true, true, 1);
    let party = Party { node, name: "n".into(), region, address, is_edge, is_core, executors, boot };
    let (version_min, version_max, cluster, cluster_hash) = (1, 1, "c".into(), 0);
    Hello { version_min, version_max, cluster, cluster_hash, party, attempt, last, nonce: [0; 32] }
}

impl World {
    fn new(budget: Budget) -> Self {
        let node = Node { boot: 1, ..Node::default() };
        let nodes = [node.clone(), node];
        World { nodes, connections: BTreeMap::new(), budget, ended: 0, mute: None, broken: None }
    }

    fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Everything that may happen but dials.
    fn running(&self) -> Vec<Event> {
        let mut events = Vec::new();
        for (&name, connection) in &self.connections {
            (0..2).filter(|end| connection.open[*end]).for_each(|end| self.on_end(name, end, &mut events));
        }
        events.extend((0..2).filter(|at| self.greets(*at)).map(Event::Greet));
        if self.budget.restarts > 0 {
            events.extend([Event::Restart(0), Event::Restart(1)]);
        }
        if self.budget.strangers > 0 {
            events.extend([Event::Stranger(0), Event::Stranger(1)]);
        }
        events
    }

    /// What may happen at this end of a connection.
    fn on_end(&self, name: LinkName, end: usize, events: &mut Vec<Event>) {
        let connection = &self.connections[&name];
        if !connection.frames[end].is_empty() {
            events.push(Event::Deliver(name, end));
        }
        if connection.dialer == STRANGER {
            return events.extend(self.nodes[end].accepted.contains(&name).then_some(Event::GiveUp(name, end)));
        }
        if !connection.open[1 - end] {
            events.push(Event::Notice(name, end));
        } else if self.budget.losses > 0 {
            events.push(Event::Lose(name, end));
        }
    }

    fn greets(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let may = may_greet(node.accepted.len(), node.up.as_ref()) || self.is(Broken::GreetsAnyway);
        node.dial.is_some() && !node.is_greeted && may && self.mute != Some(at)
    }

    fn dials(&self) -> Vec<Event> {
        let wants = |at: &usize| self.nodes[*at].up.is_none() && self.nodes[*at].dial.is_none();
        (0..2).filter(wants).map(Event::Dial).collect()
    }

    fn after(&self, event: Event) -> World {
        let mut next = self.clone();
        next.handle(event);
        next.connections.retain(|_, connection| connection.open != [false; 2]);
        next
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Dial(at) => self.dial(at),
            Event::Greet(at) => {
                let is_named = !self.is(Broken::NoLast);
                let node = &mut self.nodes[at];
                node.is_greeted = true;
                let (name, last) = (node.dial.expect("a dial"), node.last.filter(|_| is_named));
                self.send(name, at, Frame::Hello(last));
            }
            Event::Deliver(name, end) => {
                let frames = &mut self.connections.get_mut(&name).expect("a connection").frames[end];
                let frame = frames.pop_front().expect("a frame");
                self.on_frame(name, end, frame);
            }
            Event::Notice(name, end) => self.close(name, end, true),
            Event::Lose(name, end) => {
                self.budget.losses -= 1;
                self.close(name, end, false);
            }
            Event::GiveUp(name, end) => self.close(name, end, false),
            Event::Restart(at) => self.restart(at),
            Event::Stranger(at) => self.on_stranger(at),
        }
    }

    fn dial(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.attempts += 1;
        let name = LinkName { dialer: id(at), boot: node.boot, attempt: node.attempts };
        (node.dial, node.is_greeted) = (Some(name), false);
        self.connections.insert(name, Connection::new(at));
    }

    fn restart(&mut self, at: usize) {
        self.budget.restarts -= 1;
        for connection in self.connections.values_mut() {
            connection.open[at] = false;
        }
        self.nodes[at] = Node { boot: self.nodes[at].boot + 1, ..Node::default() };
    }

    /// The worst that it can say: a later start, and the name of the link that is up.
    fn on_stranger(&mut self, at: usize) {
        let name = LinkName { dialer: id(1 - at), boot: 99, attempt: self.budget.strangers.into() };
        self.budget.strangers -= 1;
        let mut connection = Connection::new(STRANGER);
        connection.open[1 - at] = false;
        connection.frames[at].push_back(Frame::Hello(self.nodes[at].up.map(|up| up.name)));
        self.connections.insert(name, connection);
    }

    fn send(&mut self, name: LinkName, from: usize, frame: Frame) {
        let connection = self.connections.get_mut(&name).expect("a connection");
        if connection.open[1 - from] {
            connection.frames[1 - from].push_back(frame);
        }
    }

    /// This end has it no more; `counts` where it did not lose it.
    fn close(&mut self, name: LinkName, end: usize, counts: bool) {
        let connection = self.connections.get_mut(&name).expect("a connection");
        connection.open[end] = false;
        connection.frames[end].clear();
        let node = &mut self.nodes[end];
        node.accepted.remove(&name);
        if node.dial == Some(name) {
            (node.dial, node.is_greeted) = (None, false);
        }
        if node.up.is_some_and(|up| up.name == name) {
            node.up = None;
            self.ended += u8::from(counts);
        }
    }

    fn on_frame(&mut self, name: LinkName, end: usize, frame: Frame) {
        match frame {
            Frame::Hello(last) => self.on_hello(name, end, last),
            Frame::Accept => {
                assert_eq!(self.nodes[end].dial, Some(name), "an answer to what is no dial");
                let boot = self.nodes[1 - end].boot;
                self.become_up(name, end, boot);
                self.send(name, end, Frame::Proof);
            }
            Frame::Proof => self.on_proof(name, end),
            Frame::Refuse => self.close(name, end, true),
        }
    }

    fn on_hello(&mut self, name: LinkName, end: usize, last: Option<LinkName>) {
        let dial = self.dial_of(end);
        let up = self.nodes[end].up.filter(|_| !self.is(Broken::HelloReplaces));
        let (own, hello) = (id(end), hello(name, last));
        let verdict = match self.broken {
            Some(Broken::NobodyGivesWay) if dial == Dial::Greeted => Err(RefuseCode::Crossed),
            Some(Broken::BothGiveWay) => on_hello(own, &hello, Dial::None, up.as_ref()),
            _ => on_hello(own, &hello, dial, up.as_ref()),
        };
        if verdict.is_err() {
            return self.refuse(name, end);
        }
        if let Some(up) = self.nodes[end].up.filter(|_| self.is(Broken::HelloReplaces)) {
            self.close(up.name, end, true);
        }
        let node = &mut self.nodes[end];
        node.accepted.insert(name);
        node.last = Some(name);
        self.connections.get_mut(&name).expect("a connection").last = last;
        self.send(name, end, Frame::Accept);
    }

    fn dial_of(&self, end: usize) -> Dial {
        match self.nodes[end].dial {
            None => Dial::None,
            Some(_) if self.nodes[end].is_greeted || self.is(Broken::ConnectingIsGreeted) => Dial::Greeted,
            Some(_) => Dial::Connecting,
        }
    }

    fn on_proof(&mut self, name: LinkName, end: usize) {
        let hello = hello(name, self.connections[&name].last);
        let up = self.nodes[end].up.filter(|_| !self.is(Broken::ProofIsNotJudged));
        assert!(self.nodes[end].accepted.remove(&name), "proof of what was not accepted");
        match on_proof(&hello, up.as_ref()) {
            Ok(()) => self.become_up(name, end, name.boot),
            Err(_) => self.refuse(name, end),
        }
    }

    fn refuse(&mut self, name: LinkName, end: usize) {
        self.send(name, end, Frame::Refuse);
        self.close(name, end, false);
    }

    fn become_up(&mut self, name: LinkName, end: usize, boot: u64) {
        let old = self.nodes[end].up.map(|up| up.name);
        let dial = self.nodes[end].dial.filter(|dial| *dial != name);
        old.into_iter().chain(dial).for_each(|name| self.close(name, end, true));
        let node = &mut self.nodes[end];
        (node.dial, node.is_greeted) = (None, false);
        (node.up, node.last) = (Some(Up { name, boot }), Some(name));
    }

    fn is_agreed(&self) -> bool {
        let [one, other] = &self.nodes;
        let name = |node: &Node| node.up.as_ref().map(|up| up.name);
        let is_whole = |name: &LinkName| self.connections.get(name).is_some_and(|c| c.open == [true; 2]);
        let is_alone = self.connections.len() == 1;
        name(one).is_some_and(|name| is_whole(&name)) && name(one) == name(other) && is_alone
    }
}

impl Connection {
    fn new(dialer: usize) -> Self {
        Connection { dialer, last: None, frames: Default::default(), open: [true; 2] }
    }
}

/// Calls `check` for every world that can be reached from here, dials at any moment included; while it says so.
fn explore(start: World, mut check: impl FnMut(&World) -> bool) {
    let mut todo = vec![start.clone()];
    let mut seen = HashSet::from([start]);
    while let Some(world) = todo.pop() {
        if !check(&world) {
            return;
        }
        let has_budget = |event: &Event| matches!(event, Event::Dial(at) if world.budget.dials[*at] > 0);
        let dials = world.dials().into_iter().filter(has_budget);
        for event in world.running().into_iter().chain(dials) {
            let mut next = world.after(event);
            if let Event::Dial(at) = event {
                next.budget.dials[at] -= 1;
            }
            if seen.insert(next.clone()) {
                todo.push(next);
            }
        }
    }
}

/// Whether, when nothing breaks any more and nodes dial only when nothing else happens, one or both at once, there is one
/// link in the end, whatever the order, after three more rounds of dials at most.
fn settles(world: &World, known: &mut HashSet<World>, rounds: u8) -> bool {
    let budget = Budget { dials: [0; 2], losses: 0, restarts: 0, strangers: 0 };
    let world = World { budget, ended: 0, ..world.clone() };
    let running = world.running();
    if !known.insert(world.clone()) || (running.is_empty() && world.is_agreed()) {
        return true;
    }
    if !running.is_empty() {
        return running.into_iter().all(|event| settles(&world.after(event), known, rounds));
    }
    let dials = world.dials();
    let together = dials.iter().fold(world.clone(), |world, dial| world.after(*dial));
    let mut next = dials.iter().map(|dial| world.after(*dial)).chain([together]);
    rounds > 0 && !dials.is_empty() && next.all(|world| settles(&world, known, rounds - 1))
}

/// What was found: whether every world settles, and the most ends that a link had.
fn outcome(start: World) -> (bool, u8) {
    let (mut known, mut all_settle, mut ended) = (HashSet::new(), true, 0);
    explore(start, |world| {
        all_settle = settles(world, &mut known, 3);
        ended = ended.max(world.ended);
        all_settle
    });
    (all_settle, ended)
}

fn budget(dials: [u8; 2], losses: u8, restarts: u8, strangers: u8) -> World {
    World::new(Budget { dials, losses, restarts, strangers })
}

#[test]
fn without_a_fault_one_link_comes_up_and_stays() {
    for strangers in 0..=2 {
        assert_eq!(outcome(budget([2, 2], 0, 0, strangers)), (true, 0), "{strangers} strangers");
    }
}

#[test]
fn faults_end_few_links_however_often_nodes_dial() {
    for (losses, restarts, ends) in [(1, 0, 1), (0, 1, 2)] {
        for dials in [[1, 1], [2, 2], [3, 2]] {
            assert_eq!(outcome(budget(dials, losses, restarts, 0)), (true, ends), "{losses} lost, {restarts} restarts");
        }
    }
    for (losses, restarts, ends) in [(2, 0, 3), (1, 1, 3)] {
        let (all_settle, ended) = outcome(budget([2, 1], losses, restarts, 0));
        assert!(all_settle && ended <= ends, "{losses} lost, {restarts} restarts: {ended} ended");
    }
    assert!(outcome(budget([1, 1], 1, 0, 1)).0, "a fault and a stranger");
}

#[test]
fn a_node_that_cannot_dial_the_other_is_dialled() {
    for mute in 0..2 {
        let (all_settle, _) = outcome(World { mute: Some(mute), ..budget([2, 1], 1, 1, 0) });
        assert!(all_settle, "node {mute} cannot dial");
    }
}

#[test]
fn every_rule_is_needed() {
    let is_broken = |broken: Broken, start: World, ended_max: u8| {
        let (all_settle, ended) = outcome(World { broken: Some(broken), ..start });
        !all_settle || ended > ended_max
    };
    assert!(is_broken(Broken::GreetsAnyway, budget([2, 2], 0, 0, 0), 0));
    assert!(is_broken(Broken::BothGiveWay, budget([2, 2], 0, 0, 0), 0));
    assert!(is_broken(Broken::NobodyGivesWay, budget([2, 2], 0, 0, 0), 0));
    assert!(is_broken(Broken::ConnectingIsGreeted, World { mute: Some(0), ..budget([1, 1], 0, 0, 0) }, 0));
    assert!(is_broken(Broken::HelloReplaces, budget([1, 1], 0, 0, 1), 0));
    assert!(is_broken(Broken::ProofIsNotJudged, budget([2, 2], 1, 0, 0), 1));
    assert!(is_broken(Broken::NoLast, budget([2, 2], 1, 0, 0), 1));
}
