//! Damaged files: an error that names what is hurt, the others still read, and no panic anywhere.

mod common;

use agentmem_core::frame::Meta;
use agentmem_core::{ContentId, Error, ErrorKind, Kind};
use agentmem_store::{OnFull, Options, Store};
use common::{Random, agent, noise, options, read_all, text};
use redb::{Database, ReadableTable, TableDefinition};
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

const SESSIONS: u64 = 3;

/// Panics of any thread, those of the engine's included.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(info);
    }));
}

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(Options { path: Some(path.to_owned()), ..options(32 << 20) })
}

struct Sample {
    folder: tempfile::TempDir,
    contents: Vec<(ContentId, Vec<u8>)>,
    talks: Vec<(String, Vec<Vec<u8>>)>,
}

/// A store of several sessions, each of which wrote a file of its own.
fn sample() -> Sample {
    let folder = tempfile::tempdir().unwrap();
    let (mut contents, mut talks) = (Vec::new(), Vec::new());
    for session in 0..SESSIONS {
        let store = open(folder.path()).unwrap();
        let agent = agent(&store, "a");
        for (number, len) in [(0, 300), (1, 5000), (2, 90_000), (3, 1_300_000)] {
            let seed = session * 10 + number;
            let content = if number == 1 { noise(seed, len) } else { text(seed, len) };
            let name = format!("content-{seed}");
            let smu = agent.put(&content, Kind::ToolDefinition, Some(&name), 50, OnFull::Wait).unwrap();
            contents.push((smu.id().unwrap(), content));
        }
        let name = format!("talk-{session}");
        let conversation = agent.conversation(Some(&name)).unwrap();
        let messages: Vec<Vec<u8>> = (0..150).map(|index| text(session << 32 | index, 1000)).collect();
        messages.iter().for_each(|message| conversation.append(message, Meta::default(), OnFull::Wait).unwrap());
        talks.push((name, messages));
        // A short one, whose messages are in the index itself.
        let name = format!("short-{session}");
        let conversation = agent.conversation(Some(&name)).unwrap();
        let messages: Vec<Vec<u8>> = (0..20).map(|index| text(99 + index, 200)).collect();
        messages.iter().for_each(|message| conversation.append(message, Meta::default(), OnFull::Wait).unwrap());
        talks.push((name, messages));
        store.close().unwrap();
    }
    Sample { folder, contents, talks }
}

impl Sample {
    /// A copy of the store to be damaged.
    fn copy(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        fs::create_dir(copy.path().join("segments")).unwrap();
        fs::copy(self.folder.path().join("index.redb"), copy.path().join("index.redb")).unwrap();
        for file in segments(self.folder.path()) {
            fs::copy(&file, copy.path().join("segments").join(file.file_name().unwrap())).unwrap();
        }
        copy
    }

    /// Reads everything; returns how much was refused as damaged. Nothing may be wrong.
    fn read(&self, store: &Store) -> usize {
        let agent = agent(store, "a");
        let mut refused = 0;
        for (id, content) in &self.contents {
            let smu = agent.attach_id(id).unwrap();
            match smu.view() {
                Ok(view) => assert!(*view == content[..], "wrong bytes of {id}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                    assert!(error.subject().contains(&id.to_string()), "{error} names nobody");
                    refused += 1;
                }
            }
        }
        for (name, messages) in &self.talks {
            let conversation = agent.conversation(Some(name)).unwrap();
            match read_all(&conversation) {
                Ok(found) => assert!(found == *messages, "wrong messages of {name}"),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                    assert!(error.subject().contains(name.as_str()), "{error} does not name {name}");
                    refused += 1;
                }
            }
        }
        refused
    }

    /// Files of frames are damaged: the store opens, says what is hurt, and takes more.
    fn check_with_damaged_frames(&self, path: &Path, must_be_hurt: bool) {
        let store = open(path).unwrap();
        let refused = self.read(&store);
        let damaged = store.verify().unwrap().damaged;
        assert_eq!(refused > 0, !damaged.is_empty(), "{refused} refused, {damaged:?}");
        assert!(refused > 0 || !must_be_hurt, "damage was not noticed");
        // What is whole goes on working.
        let agent = agent(&store, "b");
        let conversation = agent.conversation(Some("new")).unwrap();
        let messages: Vec<Vec<u8>> = (0..50).map(|index| text(77 << 32 | index, 3000)).collect();
        messages.iter().for_each(|message| conversation.append(message, Meta::default(), OnFull::Wait).unwrap());
        store.flush().unwrap();
        store.reclaim(Some(0)).unwrap();
        assert!(read_all(&conversation).unwrap() == messages);
        store.close().unwrap();
        drop((store, agent, conversation));
        let store = open(path).unwrap();
        assert_eq!(self.read(&store), refused, "damage spread");
        let agent = common::agent(&store, "b");
        assert!(read_all(&agent.conversation(Some("new")).unwrap()).unwrap() == messages);
    }
}

fn segments(path: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(path.join("segments")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn flip(path: &Path, at: u64, bits: u8) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ bits], at).unwrap();
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

fn truncate(path: &Path, len: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(len).unwrap();
}

/// The index is damaged: an error that says so, or all of it is right.
fn check_with_damaged_index(sample: &Sample, path: &Path) -> bool {
    match open(path) {
        Ok(store) => {
            assert_eq!(sample.read(&store), 0);
            assert!(store.verify().unwrap().damaged.is_empty());
            store.flush().unwrap();
            false
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert!(error.subject().contains("index"), "{error}");
            true
        }
    }
}

fn damage(seeds: std::ops::Range<u64>) {
    let sample = sample();
    let files = segments(sample.folder.path()).len();
    assert_eq!(files as u64, SESSIONS);
    for seed in seeds {
        let mut random = Random::new(seed + 1);
        let copy = sample.copy();
        let index = copy.path().join("index.redb");
        let file = segments(copy.path())[random.below(files as u64) as usize].clone();
        match seed % 8 {
            0 | 1 => {
                flip(&file, random.below(len(&file)), 1 << random.below(8));
                sample.check_with_damaged_frames(copy.path(), false);
            }
            2 => {
                truncate(&file, random.below(len(&file)));
                sample.check_with_damaged_frames(copy.path(), true);
            }
            3 => {
                fs::remove_file(&file).unwrap();
                sample.check_with_damaged_frames(copy.path(), true);
            }
            4 => {
                // Two files change places: every record is whole, and none is where it belongs.
                let other = segments(copy.path()).into_iter().find(|other| *other != file).unwrap();
                let aside = copy.path().join("aside");
                fs::rename(&file, &aside).unwrap();
                fs::rename(&other, &file).unwrap();
                fs::rename(&aside, &other).unwrap();
                sample.check_with_damaged_frames(copy.path(), true);
            }
            5 | 6 => {
                for _ in 0..1 + random.below(4) {
                    flip(&index, random.below(len(&index)), 1 + random.below(255) as u8);
                }
                check_with_damaged_index(&sample, copy.path());
            }
            _ => {
                truncate(&index, random.below(len(&index)));
                assert!(check_with_damaged_index(&sample, copy.path()), "half an index was believed");
            }
        }
    }
}

#[test]
fn damaged_files_are_noticed() {
    count_panics();
    damage(0..40);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

#[test]
fn a_missing_index_is_no_empty_store() {
    let sample = sample();
    for empty in [false, true] {
        let copy = sample.copy();
        let index = copy.path().join("index.redb");
        if empty {
            truncate(&index, 0)
        } else {
            fs::remove_file(&index).unwrap()
        }
        assert!(check_with_damaged_index(&sample, copy.path()));
        assert_eq!(segments(copy.path()).len() as u64, SESSIONS, "files that may be all that is left were removed");
    }
}

#[test]
fn another_file_is_no_index() {
    for bytes in [text(1, 100), noise(2, 100_000)] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("index.redb"), bytes).unwrap();
        let error = open(folder.path()).map(drop).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    }
}

/// Changes one row of the index as somebody might who knows redb: all checksums are right.
fn forge(index: &Path, random: &mut Random) {
    const TABLES: [&str; 6] = ["agents", "smus", "conversations", "nodes", "frames", "tags"];
    let database = Database::create(index).unwrap();
    let write = database.begin_write().unwrap();
    {
        let name = TABLES[random.below(TABLES.len() as u64) as usize];
        let mut table = write.open_table(TableDefinition::<u32, &[u8]>::new(name)).unwrap();
        let keys: Vec<u32> = table.iter().unwrap().map(|row| row.unwrap().0.value()).collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[random.below(keys.len() as u64) as usize];
        let mut value = table.get(key).unwrap().unwrap().value().to_vec();
        if value.is_empty() {
            return;
        }
        let at = random.below(value.len() as u64) as usize;
        match random.below(6) {
            0 => drop(table.remove(key).unwrap()),
            1 => drop(table.insert([0, u32::MAX, key + 1][random.below(3) as usize], &value[..]).unwrap()),
            2 => drop(table.insert(key, &value[..at]).unwrap()),
            3 => {
                // A number as large as it can be.
                value.splice(at..at + 1, [0xff, 0xff, 0xff, 0xff, 0x0f]);
                table.insert(key, &value[..]).unwrap();
            }
            _ => {
                value[at] = [0, 1, value[at].wrapping_add(1), value[at].wrapping_sub(1)][random.below(4) as usize];
                table.insert(key, &value[..]).unwrap();
            }
        }
    }
    write.commit().unwrap();
}

/// Whatever a forged index says, nobody panics, hangs or reads beyond what is there.
fn use_forged(path: &Path) {
    let Ok(store) = open(path).inspect_err(|error| assert_eq!(error.kind(), ErrorKind::Damaged, "{error}")) else {
        return;
    };
    for name in store.agents().unwrap() {
        let agent = agent(&store, &name);
        for smu in agent.smus().unwrap_or_default() {
            drop(smu.view());
        }
        for talk in agent.conversations().unwrap() {
            let conversation = agent.conversation(Some(&talk)).unwrap();
            let len = conversation.len().unwrap().min(1000);
            (0..len).step_by(7).for_each(|index| drop(conversation.read(index, len)));
            drop(conversation.append(b"more", Meta::default(), OnFull::Wait));
            drop(conversation.fork(&agent, Some(len / 2), None));
            drop(agent.release_conversation(&conversation));
        }
        drop(agent.stats());
        drop(agent.close());
    }
    store.verify().unwrap();
    store.stats().unwrap();
    store.reclaim(Some(0)).unwrap();
    drop(store.flush());
    drop(store.close());
}

fn forge_often(seeds: std::ops::Range<u64>) {
    let sample = sample();
    for seed in seeds {
        let mut random = Random::new(seed + 7);
        let copy = sample.copy();
        (0..=random.below(3)).for_each(|_| forge(&copy.path().join("index.redb"), &mut random));
        use_forged(copy.path());
    }
}

#[test]
fn a_forged_index_is_survived() {
    count_panics();
    forge_often(0..40);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}

/// Rewrites every row of a table of the index.
fn change_rows<T: serde::Serialize + serde::de::DeserializeOwned>(index: &Path, name: &str, change: impl Fn(&mut T)) {
    let database = Database::create(index).unwrap();
    let write = database.begin_write().unwrap();
    {
        let mut table = write.open_table(TableDefinition::<u32, &[u8]>::new(name)).unwrap();
        let rows: Vec<(u32, Vec<u8>)> = table
            .iter()
            .unwrap()
            .map(|row| row.unwrap())
            .map(|(key, row)| (key.value(), row.value().to_vec()))
            .collect();
        for (key, row) in rows {
            let mut row = postcard::from_bytes(&row).unwrap();
            change(&mut row);
            table.insert(key, &postcard::to_allocvec(&row).unwrap()[..]).unwrap();
        }
    }
    write.commit().unwrap();
}

#[test]
fn messages_that_hang_on_nothing_are_damage() {
    const NONE: u32 = u32::MAX;
    // Agent, name, head, messages, bytes.
    type ConversationRow = (u32, String, u32, u32, u64);
    // Parent, first message, messages, bytes, agent, frame and item.
    type NodeRow = (u32, u32, u32, u64, u32, Option<(u32, u32)>);
    let sample = sample();
    let (headless, late) = (sample.copy(), sample.copy());
    change_rows(&headless.path().join("index.redb"), "conversations", |row: &mut ConversationRow| row.2 = NONE);
    change_rows(&late.path().join("index.redb"), "nodes", |row: &mut NodeRow| {
        if row.0 == NONE {
            row.1 = 1;
        }
    });
    assert!(check_with_damaged_index(&sample, headless.path()));
    assert!(check_with_damaged_index(&sample, late.path()));
}

// cargo test -p agentmem-store --release --test damage -- --ignored
#[test]
#[ignore = "minutes"]
fn damaged_files_are_noticed_often() {
    count_panics();
    damage(1000..4000);
    forge_often(1000..4000);
    assert_eq!(PANICS.load(Ordering::SeqCst), 0);
}
