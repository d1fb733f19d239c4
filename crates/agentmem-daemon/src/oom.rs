//! Whom the kernel is to kill first when memory has run out, as scores from -1000 (never) to 1000 (first). Decisions
//! only; scores.rs writes them down.
//!
//! Last of all the keeper, then the engine: killing these gives nothing back, since what they map is held elsewhere. A
//! process with a session follows the importance of its agents, and one of the usual importance stays as it was.

/// What is tried to make the keeper the last, the most first.
pub const KEEPER: [i32; 6] = [-900, -500, -100, 0, 100, 200];
/// The same for the engine, each right behind what the keeper may then have.
pub const ENGINE: [i32; 6] = [-850, -450, -50, 50, 150, 250];

const LEAST: i32 = -1000;
const MOST: i32 = 1000;
/// The importance of which nothing follows.
const USUAL: i32 = 50;
/// Of the score, for each point of importance: a hundredth of the machine's memory is 10.
const PER_POINT: i32 = 6;

/// The score of a process that had `start` before it had a session, and whose most important agent has `importance`;
/// the engine has `engine`. Lower than `start` is what the daemon may have no right to.
pub fn wanted(start: i32, importance: u8, engine: i32) -> i32 {
    let shift = (USUAL - i32::from(importance.min(100))) * PER_POINT;
    match start {
        LEAST => start, // it is exempt
        _ if shift >= 0 => (start + shift).min(MOST),
        _ => (start + shift).max(engine + 1).min(start),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_follow_importance_around_where_they_were() {
        let all = |start| [0, 25, 50, 75, 100].map(|importance| wanted(start, importance, -850));
        assert_eq!(all(0), [300, 150, 0, -150, -300]);
        assert_eq!(all(200), [500, 350, 200, 50, -100]);
        assert_eq!(all(900), [1000, 1000, 900, 750, 600]);
        assert_eq!(wanted(0, 255, -850), -300);
    }

    #[test]
    fn nobody_is_spared_for_longer_than_the_engine() {
        assert_eq!(wanted(0, 100, -50), -49);
        assert_eq!(wanted(0, 100, 0), 0, "and none is worse off for being important");
        assert_eq!(wanted(-1000, 0, -850), -1000, "who is exempt stays so");
        assert!(KEEPER.iter().zip(ENGINE).all(|(&keeper, engine)| keeper < engine));
    }
}
