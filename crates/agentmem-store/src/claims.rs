//! Claims: how a process says which bytes it is looking at.
//!
//! A session has a table of claim words, pins in the low half and uses in the high half. It alone writes
//! them. The engine gives the words out, and knows for each slot which of them may pin it.

use crate::sync::{Ordering, Words, fence};

const ONE_PIN: u64 = 1;
const ONE_USE: u64 = 1 << 32;

/// The claim words of one session.
#[derive(Debug)]
pub struct ClaimTable(Words);

impl ClaimTable {
    /// A table over `words`, which are zero at first.
    pub fn over(words: Words) -> Self {
        ClaimTable(words)
    }

    /// Words in it.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Pins. Whatever slot word is read after this says where bytes are that stay there, readable, until
    /// [`Self::unpin`].
    #[inline]
    pub fn pin(&self, index: u32) {
        self.0[index as usize].fetch_add(ONE_PIN | ONE_USE, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// Gives one pin back.
    #[inline]
    pub fn unpin(&self, index: u32) {
        self.0[index as usize].fetch_sub(ONE_PIN, Ordering::Release);
    }

    /// Whether anyone holds a pin.
    pub fn is_pinned(&self, index: u32) -> bool {
        self.0[index as usize].load(Ordering::Acquire) as u32 != 0
    }

    /// How often it was pinned, modulo 2^32.
    pub fn uses(&self, index: u32) -> u32 {
        (self.0[index as usize].load(Ordering::Relaxed) >> 32) as u32
    }
}

/// A claim word of some session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// Whose.
    pub session: u32,
    /// Which one of its table.
    pub index: u32,
}

/// The claims that may pin one slot. Mostly one, which then takes no more than itself.
#[derive(Debug, Clone, Default)]
pub enum Claims {
    /// None.
    #[default]
    None,
    /// One.
    One(Claim),
    /// Several. A box takes a third of what a vector takes in all that have none.
    #[expect(clippy::box_collection, reason = "see above")]
    More(Box<Vec<Claim>>),
}

impl Claims {
    /// Just `claim`.
    pub fn of(claim: Claim) -> Self {
        Claims::One(claim)
    }

    /// Adds one.
    pub fn add(&mut self, claim: Claim) {
        match self {
            Claims::None => *self = Claims::One(claim),
            Claims::One(first) => *self = Claims::More(Box::new(vec![*first, claim])),
            Claims::More(more) => more.push(claim),
        }
    }

    /// Takes one out, if it is there.
    pub fn remove(&mut self, claim: Claim) {
        *self = match self {
            Claims::One(one) if *one == claim => Claims::None,
            Claims::More(more) => {
                more.retain(|&other| other != claim);
                match ***more {
                    [] => Claims::None,
                    [last] => Claims::One(last),
                    _ => return,
                }
            }
            _ => return,
        };
    }

    /// The claim of `session`, if it has one.
    pub fn of_session(&self, session: u32) -> Option<Claim> {
        self.iter().find(|claim| claim.session == session)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Claim> + '_ {
        self.as_slice().iter().copied()
    }

    fn as_slice(&self) -> &[Claim] {
        match self {
            Claims::None => &[],
            Claims::One(claim) => std::slice::from_ref(claim),
            Claims::More(more) => more,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn claim(session: u32) -> Claim {
        Claim { session, index: session * 10 }
    }

    #[test]
    fn a_list_holds_what_was_added_and_not_removed() {
        let mut claims = Claims::default();
        for session in 0..5 {
            claims.add(claim(session));
        }
        for session in [0, 3, 7] {
            claims.remove(claim(session));
        }
        let mut left: Vec<u32> = claims.iter().map(|claim| claim.session).collect();
        left.sort_unstable();
        assert_eq!(left, [1, 2, 4]);
        assert_eq!(claims.of_session(4), Some(claim(4)));
        assert_eq!(claims.of_session(3), None);
        left.into_iter().for_each(|session| claims.remove(claim(session)));
        assert!(matches!(claims, Claims::None));
    }
}
