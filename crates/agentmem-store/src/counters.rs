//! Counters that name a reason.

use std::borrow::Cow;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// How often each thing happened since the store was opened.
        #[derive(Debug, Clone, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: u64),+ }

        impl Counters {
            /// Names and values.
            pub fn entries(&self) -> Vec<(Cow<'static, str>, u64)> {
                vec![$((Cow::Borrowed(stringify!($name)), self.$name)),+]
            }
        }
    };
}

counters! {
    /// Contents taken in.
    put,
    /// Contents that were there already.
    put_shared,
    /// Messages taken in.
    append,
    /// Messages whose bytes another conversation's frame had already.
    append_shared,
    /// Hot to warm.
    demote_warm,
    /// Warm to cold.
    demote_cold,
    /// Bytes read to compress hot content.
    demote_warm_bytes,
    /// Raw copies dropped that had a compressed one.
    evict,
    /// Warm to hot.
    promote_warm,
    /// Cold to warm or hot.
    promote_cold,
    /// Uses of content that had been demoted to warm.
    refault_warm,
    /// Uses of content that had been demoted to cold.
    refault_cold,
    /// Stored bytes read again for the first.
    refault_warm_bytes,
    /// Stored bytes read again for the second.
    refault_cold_bytes,
    /// Frames rewritten because less than three quarters of them were alive.
    gc_rewrite,
    /// Small frames joined into larger ones.
    gc_merge,
    /// Agents whose process had died.
    reap,
    /// Puts refused for lack of memory.
    reject_memory,
    /// Batches in which the policy failed and LRU was used.
    policy_error,
    /// Batches that a policy ordered.
    policy_batch,
    /// Attempts to write the cold tier that failed; nothing was dropped for them.
    cold_error,
    /// Operations of other processes beyond their agent's quota.
    reject_quota,
    /// Cells of the ingest arena that made no sense.
    reject_cell,
    /// Commits of the index.
    commit,
    /// Contents that other domains may copy.
    grant,
    /// Copies that they made of them.
    redeem,
    /// Grants that were taken back.
    revoke,
}
