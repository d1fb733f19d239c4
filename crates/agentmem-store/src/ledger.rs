//! The durable index: what exists, in redb beside the segment files.
//!
//! Every commit is one transaction over everything that changed, so the index is always that of
//! one moment. Frames that it names were synced before; frames that it names no longer are buried
//! after.

use crate::dirty::Changes;
use crate::records::tail_row;
use crate::sys;
use agentmem_core::{DomainKey, Error, ErrorKind, Result};
use redb::{Database, ReadableTable, StorageBackend, TableDefinition};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

const VERSION: u32 = 2;
/// RAM that redb caches pages in.
pub const CACHE_BYTES: usize = 4 << 20;

pub type Rows = TableDefinition<'static, u32, &'static [u8]>;
const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
pub const NAMES: TableDefinition<&str, u32> = TableDefinition::new("names");
pub const AGENTS: Rows = TableDefinition::new("agents");
pub const SMUS: Rows = TableDefinition::new("smus");
pub const CONVERSATIONS: Rows = TableDefinition::new("conversations");
pub const NODES: Rows = TableDefinition::new("nodes");
pub const FRAMES: Rows = TableDefinition::new("frames");
pub const TAGS: Rows = TableDefinition::new("tags");
/// Key: slot in the high half, agent in the low.
pub const LEASES: TableDefinition<u64, ()> = TableDefinition::new("leases");
/// Key: node in the high half, message in the low.
pub const TAILS: TableDefinition<u64, &[u8]> = TableDefinition::new("tails");

pub fn failed(error: impl Into<redb::Error>) -> Error {
    let error = error.into();
    let kind = match error {
        redb::Error::Corrupted(_) => ErrorKind::Damaged,
        redb::Error::Io(ref error) if error.kind() == std::io::ErrorKind::InvalidData => ErrorKind::Damaged,
        redb::Error::DatabaseAlreadyOpen => ErrorKind::StoreLocked,
        redb::Error::UpgradeRequired(_) => ErrorKind::Version,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("the index: {error}"))
}

pub fn damaged(what: &str) -> Error {
    Error::new(ErrorKind::Damaged, format!("the index: {what}"))
}

/// What redb keeps its pages in: a file, reached through the one seam to Linux. The folder's lock
/// keeps other processes out.
#[derive(Debug)]
struct IndexFile {
    file: File,
    path: PathBuf,
}

fn for_redb(error: Error) -> std::io::Error {
    let is_damage = error.kind() == ErrorKind::Damaged;
    let kind = if is_damage { std::io::ErrorKind::InvalidData } else { std::io::ErrorKind::Other };
    std::io::Error::new(kind, error.subject().to_owned())
}

impl StorageBackend for IndexFile {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        sys::read_at(&self.file, &self.path, out, offset).map_err(for_redb)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        sys::set_len(&self.file, &self.path, len).map_err(for_redb)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        sys::sync(&self.file, &self.path).map_err(for_redb)
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        sys::write_at(&self.file, &self.path, data, offset).map_err(for_redb)
    }
}

fn open_database(path: &Path) -> Result<Database> {
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let file = open.map_err(|error| sys::io_failed(path, error))?;
    // Reading the tables reads all pages anyway, so checking them costs little, and redb promises to
    // report what is damaged only then.
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    builder.create_with_backend(IndexFile { file, path: path.to_owned() }).map_err(failed)
}

/// The index.
#[derive(Debug)]
pub struct Ledger {
    path: PathBuf,
    /// `None` after a commit failed: redb refuses everything from then on, until it is opened again.
    database: Option<Database>,
}

impl Ledger {
    /// Opens or makes the index at `path`, and gives the key of the trust domain.
    pub fn open(path: &Path) -> Result<(Self, DomainKey)> {
        let mut ledger = Ledger { path: path.to_owned(), database: None };
        let key = ledger.prepare()?;
        Ok((ledger, key))
    }

    /// The database, opened again if it has to be.
    pub fn database(&mut self) -> Result<&Database> {
        match self.database {
            Some(ref database) => Ok(database),
            None => Ok(self.database.insert(open_database(&self.path)?)),
        }
    }

    fn prepare(&mut self) -> Result<DomainKey> {
        let write = self.database()?.begin_write().map_err(failed)?;
        let key = {
            let mut meta = write.open_table(META).map_err(failed)?;
            let version = meta.get("version").map_err(failed)?.map(|value| value.value().to_vec());
            match version {
                None => drop(meta.insert("version", &VERSION.to_le_bytes()[..]).map_err(failed)?),
                Some(version) if version == VERSION.to_le_bytes() => {}
                Some(_) => return Err(Error::new(ErrorKind::Version, "the index")),
            }
            let key = meta.get("key").map_err(failed)?.map(|value| value.value().to_vec());
            match key {
                Some(key) => key.try_into().map_err(|_| damaged("key"))?,
                None => {
                    let key: [u8; 32] = sys::random()?;
                    meta.insert("key", &key[..]).map_err(failed)?;
                    key
                }
            }
        };
        for table in [AGENTS, SMUS, CONVERSATIONS, NODES, FRAMES, TAGS] {
            write.open_table(table).map_err(failed)?;
        }
        write.open_table(NAMES).map_err(failed)?;
        write.open_table(LEASES).map_err(failed)?;
        write.open_table(TAILS).map_err(failed)?;
        write.commit().map_err(failed)?;
        Ok(DomainKey(key))
    }

    /// Writes `changes` as one transaction that is durable when this returns. After a failure they
    /// may or may not be in: writing them once more is right either way.
    pub fn commit(&mut self, changes: &mut Changes) -> Result<()> {
        let outcome = self.write(changes);
        if outcome.is_err() {
            self.database = None;
        }
        outcome
    }

    fn write(&mut self, changes: &mut Changes) -> Result<()> {
        let rows = &mut changes.rows;
        let write = self.database()?.begin_write().map_err(failed)?;
        if rows.is_whole {
            for table in [AGENTS, SMUS, CONVERSATIONS, NODES, FRAMES, TAGS] {
                write.delete_table(table).map_err(failed)?;
            }
            write.delete_table(NAMES).map_err(failed)?;
            write.delete_table(LEASES).map_err(failed)?;
            write.delete_table(TAILS).map_err(failed)?;
        }
        {
            for (table, rows) in [
                (AGENTS, &rows.agents),
                (SMUS, &rows.smus),
                (CONVERSATIONS, &rows.conversations),
                (NODES, &rows.nodes),
                (FRAMES, &rows.frames),
            ] {
                let mut table = write.open_table(table).map_err(failed)?;
                for (key, value) in rows {
                    match value {
                        Some(value) => drop(table.insert(key, &value[..]).map_err(failed)?),
                        None => drop(table.remove(key).map_err(failed)?),
                    }
                }
            }
            let mut tags = write.open_table(TAGS).map_err(failed)?;
            for (frame, value) in &rows.tags {
                tags.insert(frame, &value[..]).map_err(failed)?;
            }
            for (frame, value) in &rows.frames {
                if value.is_none() {
                    tags.remove(frame).map_err(failed)?;
                }
            }
            let mut names = write.open_table(NAMES).map_err(failed)?;
            for (name, slot) in &rows.names {
                match slot {
                    Some(slot) => drop(names.insert(&**name, slot).map_err(failed)?),
                    None => drop(names.remove(&**name).map_err(failed)?),
                }
            }
            let mut leases = write.open_table(LEASES).map_err(failed)?;
            for (key, holds) in &rows.leases {
                match holds {
                    true => drop(leases.insert(key, ()).map_err(failed)?),
                    false => drop(leases.remove(key).map_err(failed)?),
                }
            }
            let mut tails = write.open_table(TAILS).map_err(failed)?;
            for &node in &rows.packed_nodes {
                let of_node = u64::from(node) << 32..=u64::from(node) << 32 | u64::from(u32::MAX);
                tails.retain_in(of_node, |_, _| false).map_err(failed)?;
            }
            for of_tail in &mut rows.tails {
                let messages = of_tail.take();
                for index in of_tail.from as usize..messages.len() {
                    let key = u64::from(of_tail.node) << 32 | index as u64;
                    let row = tail_row(messages.meta(index), messages.bytes(index));
                    tails.insert(key, &row[..]).map_err(failed)?;
                }
            }
        }
        write.commit().map_err(failed)
    }
}
