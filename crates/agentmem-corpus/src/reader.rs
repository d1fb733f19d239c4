//! Corpora on disk: a folder, one file, or an archive (`.tar.zst`).

use crate::original::Place;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Files above this are refused.
pub const FILE_BYTES_MAX: u64 = 1 << 30;

/// All files of a corpus together; they are held in memory.
pub const CORPUS_BYTES_MAX: u64 = 4 << 30;

/// The base-two logarithm of the largest window that an archive may ask for.
pub const WINDOW_LOG_MAX: u32 = 27;

/// Folders nested more deeply than this are refused.
const DEPTH_MAX: usize = 64;

/// What a file of a corpus holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A transcript, or several.
    Conversation,
    /// A system prompt.
    Prompt,
    /// Definitions of tools.
    Tool,
}

/// One file of a corpus.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Where it comes from: the first component of its path, or the first two below collections.
    pub source: String,
    /// The path inside the corpus.
    pub path: String,
    /// What it holds.
    pub class: Class,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Files to take conversations, prompts and tools from, in the order of their paths.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    files: Vec<SourceFile>,
    synthetic: bool,
    /// Where the conversations lie, once somebody asked.
    pub(crate) places: OnceLock<Vec<Place>>,
}

impl Corpus {
    /// Reads a folder, a single file, or a `.tar.zst` archive into memory.
    pub fn open(path: &Path) -> Result<Corpus, CorpusError> {
        let mut files: Vec<SourceFile> = Vec::new();
        let mut total_bytes = 0;
        visit(path, &mut |file| {
            total_bytes += file.bytes.len() as u64;
            if total_bytes > CORPUS_BYTES_MAX {
                return Err(CorpusError::too_large(Path::new(&file.path), CORPUS_BYTES_MAX));
            }
            files.push(file);
            Ok(())
        })?;
        if files.is_empty() {
            return Err(CorpusError::Empty { path: path.to_owned() });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Corpus { files, ..Corpus::default() })
    }

    /// Adds the files of another corpus.
    pub fn append(&mut self, other: Corpus) {
        self.files.extend(other.files);
        self.synthetic |= other.synthetic;
        self.places = OnceLock::new();
    }

    pub(crate) fn synthetic(files: Vec<SourceFile>) -> Corpus {
        Corpus { files, synthetic: true, ..Corpus::default() }
    }

    /// All files.
    pub fn files(&self) -> &[SourceFile] {
        &self.files
    }

    /// The files of one class.
    pub fn of_class(&self, class: Class) -> impl Iterator<Item = &SourceFile> {
        self.files.iter().filter(move |file| file.class == class)
    }

    /// Whether any of it is generated.
    pub fn is_synthetic(&self) -> bool {
        self.synthetic
    }
}

/// Takes one file after the other; an error ends the visit.
type Sink<'a> = &'a mut dyn FnMut(SourceFile) -> Result<(), CorpusError>;

/// Hands every file of a folder, a single file or a `.tar.zst` archive to `sink`, one at a time in memory.
pub fn visit(path: &Path, sink: Sink) -> Result<(), CorpusError> {
    let metadata = fs::metadata(path).map_err(|error| CorpusError::io(path, error))?;
    let collection = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    if metadata.is_dir() {
        visit_folder(&collection, path, path, 0, sink)
    } else if collection.ends_with(".tar.zst") {
        visit_archive(&collection, path, sink)
    } else {
        let file = File::open(path).map_err(|error| CorpusError::io(path, error))?;
        let name = Name { source: collection.clone(), inside: collection, below_prompts: false };
        visit_file(name, path, file, sink)
    }
}

fn visit_folder(collection: &str, root: &Path, folder: &Path, depth: usize, sink: Sink) -> Result<(), CorpusError> {
    if depth == DEPTH_MAX {
        return Err(CorpusError::TooDeep { path: folder.to_owned() });
    }
    let fail = |error| CorpusError::io(folder, error);
    let entries: io::Result<Vec<_>> = fs::read_dir(folder).map_err(fail)?.collect();
    let mut entries = entries.map_err(fail)?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        // The type of the entry itself: links are not followed, so there are no circles.
        let kind = entry.file_type().map_err(|error| CorpusError::io(&path, error))?;
        if kind.is_dir() {
            visit_folder(collection, root, &path, depth + 1, sink)?;
        } else if kind.is_file() {
            let inside = path.strip_prefix(root).unwrap_or(&path).to_string_lossy();
            if let Some(name) = Name::of(&inside, collection) {
                let file = File::open(&path).map_err(|error| CorpusError::io(&path, error))?;
                visit_file(name, &path, file, sink)?;
            }
        }
    }
    Ok(())
}

fn visit_archive(collection: &str, path: &Path, sink: Sink) -> Result<(), CorpusError> {
    let fail = |error| CorpusError::io(path, error);
    let file = File::open(path).map_err(fail)?;
    let mut decoder = zstd::stream::Decoder::new(file).map_err(fail)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(fail)?;
    let mut archive = tar::Archive::new(decoder);
    for entry in archive.entries().map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let inside = entry.path().map_err(fail)?.to_string_lossy().into_owned();
        if let Some(name) = Name::of(inside.trim_start_matches("./"), collection) {
            let place = path.join(&name.inside);
            visit_file(name, &place, entry, sink)?;
        }
    }
    Ok(())
}

fn visit_file(name: Name, place: &Path, content: impl Read, sink: Sink) -> Result<(), CorpusError> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large from one that just fits.
    content.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| CorpusError::io(place, error))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(CorpusError::too_large(place, FILE_BYTES_MAX));
    }
    if bytes.trim_ascii().is_empty() {
        return Ok(());
    }
    let class = if name.below_prompts { class_of_prompt(&bytes) } else { Class::Conversation };
    sink(SourceFile { source: name.source, path: name.inside, class, bytes })
}

/// What the path of a file says about it.
struct Name {
    source: String,
    inside: String,
    below_prompts: bool,
}

impl Name {
    /// `None` for files that are no part of the corpus: licences, documentation, formats that are not read.
    fn of(inside: &str, collection: &str) -> Option<Name> {
        let mut components = inside.split('/');
        let first = components.next()?;
        let second = components.next();
        let below_prompts = first == "prompts" && second.is_some();
        let file = inside.rsplit('/').next()?;
        if file.starts_with("LICENSE") {
            return None;
        }
        let wanted: &[&str] = if below_prompts { &["json", "snap", "md", "txt"] } else { &["jsonl", "json", "traj"] };
        let (_, extension) = file.rsplit_once('.')?;
        if !wanted.contains(&extension) {
            return None;
        }
        let source = match second {
            Some(second) if matches!(first, "prompts" | "misc-sessions") => {
                format!("{first}/{second}")
            }
            Some(_) => first.to_owned(),
            None => collection.to_owned(),
        };
        Some(Name { source, inside: inside.to_owned(), below_prompts })
    }
}

/// Tool definitions are JSON and describe parameters; everything else is a prompt.
fn class_of_prompt(bytes: &[u8]) -> Class {
    const MARKS: [&[u8]; 3] = [b"\"inputSchema\"", b"\"input_schema\"", b"\"parameters\""];
    let is_json = matches!(bytes.trim_ascii_start().first(), Some(b'{' | b'['));
    let describes_parameters = || MARKS.iter().any(|mark| bytes.windows(mark.len()).any(|window| window == *mark));
    if is_json && describes_parameters() { Class::Tool } else { Class::Prompt }
}

/// Why a corpus cannot be read.
#[derive(Debug)]
pub enum CorpusError {
    /// The operating system, or the archive's format, refused.
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        error: io::Error,
    },
    /// More bytes than allowed.
    TooLarge {
        /// The file at which the limit was passed.
        path: PathBuf,
        /// The limit.
        bytes_max: u64,
    },
    /// Folders are nested too deeply.
    TooDeep {
        /// The folder at which the limit was passed.
        path: PathBuf,
    },
    /// There is nothing in it that is a transcript, a prompt or a tool definition.
    Empty {
        /// The corpus.
        path: PathBuf,
    },
}

impl CorpusError {
    fn io(path: &Path, error: io::Error) -> CorpusError {
        CorpusError::Io { path: path.to_owned(), error }
    }

    fn too_large(path: &Path, bytes_max: u64) -> CorpusError {
        CorpusError::TooLarge { path: path.to_owned(), bytes_max }
    }
}

impl fmt::Display for CorpusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CorpusError::Io { path, error } => write!(f, "cannot read {}: {error}", path.display()),
            CorpusError::TooLarge { path, bytes_max } => {
                write!(f, "{}: more than {bytes_max} bytes", path.display())
            }
            CorpusError::TooDeep { path } => {
                write!(f, "{}: folders nested more than {DEPTH_MAX} deep", path.display())
            }
            CorpusError::Empty { path } => {
                write!(f, "{}: no transcripts (.jsonl, .json, .traj) and no prompts in it", path.display())
            }
        }
    }
}

impl std::error::Error for CorpusError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            CorpusError::Io { error, .. } => Some(error),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILES: [(&str, &str); 9] = [
        ("README.md", "# not read"),
        ("one/LICENSE", "not read"),
        ("one/a/b.jsonl", "{\"role\":\"user\"}\n"),
        ("one/empty.jsonl", "\n"),
        ("misc-sessions/two/c.traj", "{}"),
        ("plain.json", "[]"),
        ("prompts/p/system.md", "You are"),
        ("prompts/p/tool.snap", "{\"inputSchema\":{}}"),
        ("prompts/q/text.snap", "exports \"parameters\""),
    ];

    fn expected(collection: &str) -> Vec<(String, String, Class)> {
        [
            ("misc-sessions/two", "misc-sessions/two/c.traj", Class::Conversation),
            ("one", "one/a/b.jsonl", Class::Conversation),
            (collection, "plain.json", Class::Conversation),
            ("prompts/p", "prompts/p/system.md", Class::Prompt),
            ("prompts/p", "prompts/p/tool.snap", Class::Tool),
            ("prompts/q", "prompts/q/text.snap", Class::Prompt),
        ]
        .map(|(source, path, class)| (source.to_owned(), path.to_owned(), class))
        .to_vec()
    }

    fn found(corpus: &Corpus) -> Vec<(String, String, Class)> {
        corpus.files().iter().map(|file| (file.source.clone(), file.path.clone(), file.class)).collect()
    }

    #[test]
    fn folder() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("mine");
        for (path, text) in FILES {
            let path = folder.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink(&folder, folder.join("one/again")).unwrap();
        assert_eq!(found(&Corpus::open(&folder).unwrap()), expected("mine"));
    }

    #[test]
    fn archive_with_a_long_window() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("packed.tar.zst");
        let mut encoder = zstd::stream::Encoder::new(File::create(&path).unwrap(), 1).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.window_log(WINDOW_LOG_MAX).unwrap();
        let mut archive = tar::Builder::new(encoder);
        for (path, text) in FILES {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            archive.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap().finish().unwrap();
        assert_eq!(found(&Corpus::open(&path).unwrap()), expected("packed.tar.zst"));

        let mut damaged = fs::read(&path).unwrap();
        let middle = damaged.len() / 2;
        damaged.truncate(middle);
        fs::write(&path, damaged).unwrap();
        let error = Corpus::open(&path).unwrap_err();
        assert!(error.to_string().contains("packed.tar.zst"), "{error}");
    }

    #[test]
    fn single_file_and_errors() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("session.txt");
        fs::write(&path, "hello").unwrap();
        let corpus = Corpus::open(&path).unwrap();
        assert_eq!(found(&corpus), [("session.txt".to_owned(), "session.txt".to_owned(), Class::Conversation)]);

        let absent = Corpus::open(&root.path().join("absent")).unwrap_err();
        assert!(matches!(absent, CorpusError::Io { .. }) && absent.to_string().contains("absent"));
        let empty = root.path().join("empty");
        fs::create_dir(&empty).unwrap();
        assert!(matches!(Corpus::open(&empty), Err(CorpusError::Empty { .. })));
    }
}
