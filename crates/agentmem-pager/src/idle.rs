//! Whether a tree is idle, folded from samples and hints. Pure: time comes as an argument, in
//! milliseconds of any clock that does not go back.

use crate::sample::{Process, Sample, Socket};
use crate::tree::Member;
use std::collections::BTreeMap;

/// CPU use of one process from which on it works, in thousandths of a core. An idle Claude Code
/// uses 4 to 9, for 15 to 18 wakeups a second, and one that works 80 to 200. Each process counts
/// for itself, since many idle ones are no work.
pub const CPU_PER_MILLE: u64 = 30;

/// CPU use is judged over at least this time, or as soon as its share of it is used up: single
/// seconds of an idle runtime, in which it collects garbage, reach 26 thousandths and more.
pub const CPU_WINDOW_MS: u64 = 3000;

/// A thread that is found running in two samples works, if they are this far apart: who looks on may ask for samples
/// as often as they like, and an idle runtime runs for moments.
pub const RUNS_APART_MS: u64 = 500;

/// A request that was not answered for this long counts no more: it may be a connection that is
/// never answered (a long poll), or one whose last word was no request.
pub const REQUEST_MS_MAX: u64 = 10 * 60 * 1000;

/// The same after a hook has said that the turn is over.
pub const REQUEST_AFTER_TURN_MS_MAX: u64 = 60 * 1000;

/// What is sent after the last data came, and is no longer than this, is no request: HTTP/2
/// acknowledges with 30 to 60 bytes what it got.
pub const CONTROL_BYTES_MAX: u64 = 128;

/// A turn that a hook announced, and that has not ended for this long, counts no more.
pub const TURN_MS_MAX: u64 = 60 * 60 * 1000;

const ESTABLISHED: u8 = 1;
const CONNECTING: u8 = 2;
const LISTENING: u8 = 10;

/// What a hook of the agent says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It waits for its user.
    Idle,
    /// It works.
    Active,
}

/// What keeps a tree from being quiet.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Busy {
    text: String,
    /// Whether it goes on, hint or no hint. What is over when it is seen (input, data that came)
    /// and what a hook claimed gives way to a hook that says idle.
    lasts: bool,
}

/// What was sent on a connection when data last came on it.
#[derive(Debug, Clone, Copy)]
struct Heard {
    received_bytes: u64,
    sent_bytes: u64,
    /// Sent when the sample before was taken.
    before_bytes: u64,
}

/// The fold.
#[derive(Debug, Clone)]
pub struct Idleness {
    turn: Option<(Turn, u64)>,
    busy: Option<Busy>,
    /// When something last happened.
    active_ms: u64,
    /// CPU times from which use is counted, and their time.
    mark: Option<(u64, BTreeMap<Member, u64>)>,
    /// What the last whole window of CPU use said, if it was no rest.
    works: Option<String>,
    /// Threads that ran, and when.
    running: (u64, Vec<(i32, i32)>),
    heard: BTreeMap<u64, Heard>,
}

impl Idleness {
    /// Of a tree that starts now, and is busy until a whole window of CPU use has said otherwise.
    pub fn new(now_ms: u64) -> Self {
        let text = "not watched for long enough".to_owned();
        Self {
            turn: None,
            busy: Some(Busy { text: text.clone(), lasts: true }),
            active_ms: now_ms,
            mark: None,
            works: Some(text),
            running: (now_ms, Vec::new()),
            heard: BTreeMap::new(),
        }
    }

    /// Since when it has been quiet; `None` while it is not.
    pub fn quiet_since(&self) -> Option<u64> {
        self.busy.is_none().then_some(self.active_ms)
    }

    /// What it does, if it is not quiet; for people.
    pub fn busy_with(&self) -> Option<String> {
        self.busy.as_ref().map(|busy| busy.text.clone())
    }

    /// What a hook said last, if it still counts.
    pub fn turn(&self) -> Option<Turn> {
        self.turn.map(|(turn, _)| turn)
    }

    /// Takes in a sample.
    pub fn observe(&mut self, now_ms: u64, sample: &Sample) {
        if matches!(self.turn, Some((Turn::Active, since)) if now_ms.saturating_sub(since) >= TURN_MS_MAX) {
            self.turn = None;
        }
        // Each of these remembers what it saw, so each has to see every sample.
        let cpu = self.cpu(now_ms, &sample.processes);
        let runs = self.runs(now_ms, sample);
        let network = self.network(sample);
        let lasting = sample.unseen.first().cloned().or(cpu).or(runs).or(sleeps(sample)).or(network.awaits);
        let passing = self.announced().or(network.traffic);
        self.busy = match (lasting, passing) {
            (Some(text), _) => Some(Busy { text, lasts: true }),
            (None, Some(text)) => Some(Busy { text, lasts: false }),
            (None, None) => None,
        };
        if self.busy.is_some() {
            self.active_ms = now_ms;
        }
    }

    /// Input came, on its terminal or from one who waits for it.
    pub fn input(&mut self, now_ms: u64) {
        self.active_ms = now_ms;
        if self.busy.is_none() {
            self.busy = Some(Busy { text: "input".into(), lasts: false });
        }
    }

    /// It was frozen, and runs again: what was counted before says nothing any more.
    pub fn woke(&mut self, now_ms: u64) {
        *self = Self { turn: self.turn, ..Self::new(now_ms) };
    }

    /// It was frozen, and runs for a moment, as `sample` sees it when that begins. What it was, it is still, unless it
    /// does something in that moment: only processor time is counted anew, since none of it is worth a whole window.
    pub fn breathes(&mut self, now_ms: u64, sample: &Sample) {
        self.set_mark(now_ms, &sample.processes);
        self.running = (now_ms, Vec::new());
    }

    /// A hook said something. Idle makes it quiet at once, unless the last sample showed work, a
    /// tool, or a request; active keeps it awake until idle, for [`TURN_MS_MAX`] at most.
    pub fn hint(&mut self, now_ms: u64, turn: Turn) {
        self.turn = Some((turn, now_ms));
        match turn {
            Turn::Idle if self.busy.as_ref().is_some_and(|busy| !busy.lasts) => self.busy = None,
            Turn::Idle => {}
            Turn::Active => {
                self.active_ms = now_ms;
                if self.busy.is_none() {
                    self.busy = self.announced().map(|text| Busy { text, lasts: false });
                }
            }
        }
    }

    fn announced(&self) -> Option<String> {
        (self.turn() == Some(Turn::Active)).then(|| "a turn".to_owned())
    }

    /// The process that used the most CPU time since the mark, if it used too much. Rest is
    /// believed after a whole window only.
    fn cpu(&mut self, now_ms: u64, processes: &[Process]) -> Option<String> {
        let Some((since_ms, before)) = &self.mark else {
            self.set_mark(now_ms, processes);
            return self.works.clone();
        };
        let elapsed_ms = now_ms.saturating_sub(*since_ms);
        // A process that is new used all its time since.
        let used = |process: &Process| process.cpu_ns.saturating_sub(*before.get(&process.member).unwrap_or(&0));
        let most = processes.iter().max_by_key(|process| used(process));
        let per_mille = most.map_or(0, used) / (elapsed_ms.max(CPU_WINDOW_MS) * 1000);
        let busiest = most.filter(|_| per_mille > CPU_PER_MILLE);
        if busiest.is_some() || elapsed_ms >= CPU_WINDOW_MS {
            let text = |process: &Process| {
                format!("{} ({}) uses {} % of a core", process.comm, process.member.pid, per_mille / 10)
            };
            self.works = busiest.map(text);
            self.set_mark(now_ms, processes);
        }
        self.works.clone()
    }

    fn set_mark(&mut self, now_ms: u64, processes: &[Process]) {
        self.mark = Some((now_ms, processes.iter().map(|process| (process.member, process.cpu_ns)).collect()));
    }

    /// A thread that runs, or waits for a disk, in two samples in a row: it works, even where it
    /// gets no CPU time. Once is no sign.
    fn runs(&mut self, now_ms: u64, sample: &Sample) -> Option<String> {
        if now_ms < self.running.0 + RUNS_APART_MS {
            return None;
        }
        let (_, before) = std::mem::replace(&mut self.running, (now_ms, sample.running.clone()));
        let (pid, tid) = sample.running.iter().find(|thread| before.contains(thread))?;
        Some(format!("thread {tid} of pid {pid} runs"))
    }

    fn network(&mut self, sample: &Sample) -> Network {
        let limit_ms = match self.turn() {
            Some(Turn::Idle) => REQUEST_AFTER_TURN_MS_MAX,
            _ => REQUEST_MS_MAX,
        };
        let served: Vec<u16> = ports(sample, |socket| socket.tcp.state == LISTENING);
        let mut heard = BTreeMap::new();
        let mut network = Network::default();
        for socket in sample.sockets.iter().filter(|socket| socket.tcp.state != LISTENING) {
            let before = self.heard.get(&socket.inode);
            let now = listen(before, socket);
            if before.is_none_or(|before| before.before_bytes != now.before_bytes)
                || before.is_some_and(|before| before.received_bytes != now.received_bytes)
            {
                network.traffic.get_or_insert_with(|| format!("traffic on {}", name(socket)));
            }
            // A server that answered spoke last, and awaits nothing.
            let serves = socket.tcp.state == ESTABLISHED && served.contains(&socket.port);
            if !serves && awaits_answer(socket, &now, limit_ms) {
                network.awaits.get_or_insert_with(|| format!("an answer awaited on {}", name(socket)));
            }
            heard.insert(socket.inode, now);
        }
        self.heard = heard;
        network
    }
}

/// What connections say.
#[derive(Default)]
struct Network {
    awaits: Option<String>,
    traffic: Option<String>,
}

fn sleeps(sample: &Sample) -> Option<String> {
    let tool = sample.processes.iter().find(|process| process.sleeps)?;
    Some(format!("{} ({}) runs", tool.comm, tool.member.pid))
}

fn ports(sample: &Sample, which: impl Fn(&Socket) -> bool) -> Vec<u16> {
    sample.sockets.iter().filter(|socket| which(socket)).map(|socket| socket.port).collect()
}

fn name(socket: &Socket) -> String {
    format!("socket fd {} of pid {}", socket.fd, socket.pid)
}

/// What is known of a connection after one more look. If data came since the last one, what was
/// sent before that counts as answered; of what was sent between the two looks, nothing is known,
/// so it counts as sent after.
fn listen(before: Option<&Heard>, socket: &Socket) -> Heard {
    let (received_bytes, now) = (socket.tcp.received_bytes, socket.tcp.sent_bytes);
    let sent_bytes = match before {
        None => 0,
        Some(before) if before.received_bytes == received_bytes => before.sent_bytes,
        Some(before) => before.before_bytes,
    };
    Heard { received_bytes, sent_bytes, before_bytes: now }
}

/// Whether a request is in flight: its connection is being made, or more than an acknowledgement
/// was sent after data last came.
fn awaits_answer(socket: &Socket, heard: &Heard, limit_ms: u64) -> bool {
    let tcp = &socket.tcp;
    let spoke_last = tcp.sent_ago_ms < tcp.received_ago_ms || heard.received_bytes == 0;
    let request_bytes = tcp.sent_bytes.saturating_sub(heard.sent_bytes);
    match tcp.state {
        CONNECTING => true,
        ESTABLISHED => spoke_last && request_bytes > CONTROL_BYTES_MAX && u64::from(tcp.sent_ago_ms) < limit_ms,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
