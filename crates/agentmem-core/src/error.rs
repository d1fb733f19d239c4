//! The one error type; its kinds come from `spec/errors.toml`.

pub use crate::error_table::ErrorKind;
use std::fmt;

/// What went wrong, and with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    kind: ErrorKind,
    subject: String,
}

/// Result of everything that can fail here.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of `kind` about `subject`: the name, id or path concerned, never its contents.
    pub fn new(kind: ErrorKind, subject: impl Into<String>) -> Self {
        Error { kind, subject: subject.into() }
    }

    /// Which row of the error table this is.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The thing concerned.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.kind.text())
    }
}

impl std::error::Error for Error {}
