//! Errors: a number, and a text that the thread keeps.

use agentmem_core::{Error, ErrorKind, Result};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

thread_local! {
    static TEXT: RefCell<CString> = RefCell::default();
}

/// Names by number, as C has them.
static NAMES: LazyLock<Vec<(ErrorKind, CString)>> =
    LazyLock::new(|| ErrorKind::ALL.iter().map(|&kind| (kind, c_text(kind.name()))).collect());

/// `text` for C, without the NULs that it may hold.
pub fn c_text(text: &str) -> CString {
    let bytes: Vec<u8> = text.bytes().filter(|&byte| byte != 0).collect();
    CString::new(bytes).expect("without a NUL")
}

/// An argument that makes no sense.
#[cold]
pub fn invalid(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidArgument, what)
}

/// Runs `call`: 0, or the number of its error, whose text the thread keeps. A panic ends here.
#[inline]
pub fn answer(call: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => fail(&error),
        // As the engine says it when it was the one that failed.
        Err(_) => fail(&Error::new(ErrorKind::Closed, "this call has failed (a bug)")),
    }
}

#[cold]
fn fail(error: &Error) -> c_int {
    let text = c_text(&error.to_string());
    // A thread that is ending has no text any more, and the number still says what went wrong.
    let _ = TEXT.try_with(|kept| kept.replace(text));
    error.kind().number().into()
}

fn known(number: c_int) -> Option<&'static (ErrorKind, CString)> {
    NAMES.iter().find(|(kind, _)| c_int::from(kind.number()) == number)
}

/// Text of the thread's last error.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_error_text() -> *const c_char {
    TEXT.try_with(|kept| kept.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Name of an error.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_error_name(number: c_int) -> *const c_char {
    let name: &'static CStr = match (number, known(number)) {
        (0, _) => c"OK",
        (_, Some((_, name))) => name,
        (_, None) => c"unknown",
    };
    name.as_ptr()
}

/// errno of an error.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_error_errno(number: c_int) -> c_int {
    match (number, known(number)) {
        (0, _) => 0,
        (_, Some((kind, _))) => kind.errno(),
        (_, None) => ErrorKind::Unsupported.errno(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_ends_at_the_border() {
        let answered = answer(|| panic!("on purpose"));
        assert_eq!(answered, i32::from(ErrorKind::Closed.number()));
        TEXT.with_borrow(|text| assert!(text.to_str().unwrap().contains("a bug")));
    }

    #[test]
    fn texts_belong_to_threads() {
        assert_eq!(answer(|| Err(invalid("one\0 thing"))), 3);
        std::thread::spawn(|| TEXT.with_borrow(|text| assert!(text.is_empty()))).join().unwrap();
        TEXT.with_borrow(|text| assert!(text.to_str().unwrap().starts_with("one thing: ")));
    }
}
