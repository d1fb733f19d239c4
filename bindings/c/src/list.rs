//! Lists of names and of messages.

use crate::border::{Out, needed};
use crate::errors::{answer, invalid};
use agentmem_store::StoredMessage;
use std::ffi::{c_int, c_void};

/// `agentmem_list`.
pub struct List {
    items: Vec<Listed>,
}

enum Listed {
    /// With a NUL behind it.
    Name(Vec<u8>),
    Message(StoredMessage),
}

/// `agentmem_item`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Item {
    bytes: *const c_void,
    len_bytes: usize,
    is_value: u32,
    reserved: u32,
}

// What agentmem.h asserts as well.
const _: () = assert!(size_of::<Item>() == 24);

impl List {
    /// A list of names.
    pub fn of_names(names: Vec<String>) -> Self {
        let ended = |name: String| Listed::Name([name.as_bytes(), &[0]].concat());
        List { items: names.into_iter().map(ended).collect() }
    }

    /// A list of messages.
    pub fn of_messages(messages: Vec<StoredMessage>) -> Self {
        List { items: messages.into_iter().map(Listed::Message).collect() }
    }
}

/// How many it has.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_list_len(list: Option<&List>, len: Out<usize>) -> c_int {
    answer(|| len.fill("len", || Ok(needed(list, "list")?.items.len())))
}

/// One of them.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_list_item(list: Option<&List>, index: usize, item: Out<Item>) -> c_int {
    answer(|| {
        item.fill("item", || {
            let items = &needed(list, "list")?.items;
            let found = items.get(index).ok_or_else(|| invalid(format!("item {index} of {}", items.len())))?;
            let (bytes, is_value) = match found {
                Listed::Name(ended) => (&ended[..ended.len() - 1], false),
                Listed::Message(message) => (message.own_bytes(), message.meta.is_value),
            };
            let (start, len_bytes) = (bytes.as_ptr().cast(), bytes.len());
            Ok(Item { bytes: start, len_bytes, is_value: is_value.into(), reserved: 0 })
        })
    })
}

/// Frees it.
#[unsafe(no_mangle)]
pub extern "C" fn agentmem_list_free(list: Option<Box<List>>) {
    answer(|| {
        drop(list);
        Ok(())
    });
}
