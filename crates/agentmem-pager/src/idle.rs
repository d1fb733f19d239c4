//! placeholder
use crate::proc;
use crate::tree::Member;
#[derive(Debug, Default)]
pub struct Sample {
    pub cpu: u64,
}
pub fn sample(members: &[Member]) -> Sample {
    Sample { cpu: members.iter().filter_map(|m| proc::stat(m.pid).ok()).map(|s| s.cpu_ticks).sum() }
}
#[derive(Debug, Default)]
pub struct Idleness {
    last: Option<(u64, u64)>,
    quiet_since: Option<u64>,
    input: u64,
}
impl Idleness {
    pub fn new() -> Self {
        Self::default()
    }
    pub fn observe(&mut self, now_ms: u64, s: &Sample) {
        if let Some((at, cpu)) = self.last {
            let dt = now_ms.saturating_sub(at).max(1);
            if (s.cpu.saturating_sub(cpu)) * 10 * 100 / dt > 5 {
                self.quiet_since = None
            } else if self.quiet_since.is_none() {
                self.quiet_since = Some(now_ms)
            }
        }
        self.last = Some((now_ms, s.cpu));
    }
    pub fn input(&mut self, now_ms: u64) {
        if now_ms > self.input {
            self.input = now_ms;
            self.quiet_since = None
        }
    }
    pub fn quiet_since(&self) -> Option<u64> {
        self.quiet_since
    }
    pub fn busy_with(&self) -> Option<String> {
        None
    }
}
