//! Kinds, tiers, agent states, advice and backends: the small closed vocabularies.

use crate::error::{Error, ErrorKind, Result};

macro_rules! vocabulary {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number),+ }

        impl $name {
            /// Every value, in numeric order.
            pub const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The word users write and read.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }

            /// The value written as `word`.
            pub fn parse(word: &str) -> Result<Self> {
                match word {
                    $($text => Ok($name::$variant),)+
                    _ => Err(Error::new(
                        ErrorKind::InvalidArgument,
                        format!("{word:?} is none of {}", [$($text),+].join(", ")),
                    )),
                }
            }

            /// The value stored as `number`, if there is one.
            pub const fn from_u8(number: u8) -> Option<Self> {
                match number { $($number => Some($name::$variant),)+ _ => None }
            }
        }
    };
}

vocabulary! {
    /// What a semantic memory unit holds.
    Kind {
        /// Instructions an agent starts from.
        SystemPrompt = 0 "system_prompt",
        /// Definitions of the tools an agent may call.
        ToolDefinition = 1 "tool_definition",
        /// What a tool gave back.
        ToolResult = 2 "tool_result",
        /// One message of a conversation.
        Message = 3 "message",
    }
}

vocabulary! {
    /// Where bytes are.
    Tier {
        /// Resident, raw.
        Hot = 0 "hot",
        /// Resident, compressed.
        Warm = 1 "warm",
        /// On SSD.
        Cold = 2 "cold",
        /// On another machine or in an object store.
        Remote = 3 "remote",
    }
}

vocabulary! {
    /// What an agent is doing.
    AgentState {
        /// Works, or may at any moment.
        Active = 0 "active",
        /// Has nothing to do for now.
        Idle = 1 "idle",
        /// Was told to stop; comes back only when resumed.
        Paused = 2 "paused",
    }
}

vocabulary! {
    /// What an agent knows about its next use of an SMU.
    Advice {
        /// Keep resident and raw.
        Hot = 0 "hot",
        /// Not needed soon.
        Cold = 1 "cold",
        /// Needed soon: promote now.
        WillNeed = 2 "will_need",
    }
}

vocabulary! {
    /// What holds sealed SMUs of a page or more while they are in RAM.
    Backend {
        /// The engine.
        User = 0 "user",
        /// The kernel module.
        Kernel = 1 "kernel",
        /// The kernel module where there is one, else the engine.
        Auto = 2 "auto",
    }
}

/// The largest logical size of one SMU: 4 GiB.
pub const SMU_LOGICAL_BYTES_MAX: u64 = 4 << 30;
/// The largest importance of an agent or an SMU.
pub const IMPORTANCE_MAX: u8 = 100;

/// `importance`, if it is in range.
pub fn check_importance(importance: i64) -> Result<u8> {
    u8::try_from(importance)
        .ok()
        .filter(|&value| value <= IMPORTANCE_MAX)
        .ok_or_else(|| Error::new(ErrorKind::InvalidArgument, format!("importance {importance} is not in 0..=100")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_round_trip() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::parse(kind.as_str()), Ok(kind));
            assert_eq!(Kind::from_u8(kind as u8), Some(kind));
        }
        assert_eq!(Kind::from_u8(4), None);
        assert_eq!(Kind::parse("memo").unwrap_err().kind(), ErrorKind::InvalidArgument);
    }

    #[test]
    fn importance_has_bounds() {
        assert_eq!(check_importance(100), Ok(100));
        assert!(check_importance(101).is_err() && check_importance(-1).is_err());
    }
}
