//! The conversations in a corpus: one for each file, or one for each run where a file holds several.

use crate::reader::{Class, Corpus, SourceFile};
use agentmem_core::transcript::{Piece, conversations};

/// One conversation of a corpus, as it is there.
#[derive(Clone, Copy, Debug)]
pub struct Original<'a> {
    /// The file that it lies in.
    pub file: &'a SourceFile,
    /// The path of the file, followed by `#` and a number if the file holds several conversations.
    pub name: &'a str,
    /// Its part of the file.
    pub text: &'a [u8],
    /// Its messages; offsets are those in `text`.
    pub pieces: &'a [Piece],
}

impl<'a> Original<'a> {
    /// The messages in order.
    pub fn messages(&self) -> impl ExactSizeIterator<Item = &'a [u8]> {
        let text = self.text;
        self.pieces.iter().map(move |piece| piece.message(text))
    }
}

/// Where a conversation lies.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    file: usize,
    name: String,
    start: usize,
    end: usize,
    pieces: Vec<Piece>,
}

impl Corpus {
    /// Its conversations in the order of their files. They are looked for when first asked for.
    pub fn originals(&self) -> impl Iterator<Item = Original<'_>> {
        self.places.get_or_init(|| places(self.files())).iter().map(|place| {
            let file = &self.files()[place.file];
            Original { file, name: &place.name, text: &file.bytes[place.start..place.end], pieces: &place.pieces }
        })
    }
}

fn places(files: &[SourceFile]) -> Vec<Place> {
    let transcripts = files.iter().enumerate().filter(|(_, file)| file.class == Class::Conversation);
    transcripts.flat_map(|(index, file)| places_in(index, file)).collect()
}

fn places_in(index: usize, file: &SourceFile) -> Vec<Place> {
    let found = conversations(&file.bytes);
    let is_one = found.len() == 1;
    let place = |(number, mut pieces): (usize, Vec<Piece>)| {
        let (start, end) = (pieces[0].start, pieces[pieces.len() - 1].end);
        for piece in &mut pieces {
            piece.start -= start;
            piece.end -= start;
        }
        let name = if is_one { file.path.clone() } else { format!("{}#{number}", file.path) };
        Place { file: index, name, start, end, pieces }
    };
    found.into_iter().enumerate().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_runs_holds_several() {
        let run = |n: usize| format!(r#"{{"n":{n},"traj":[{{"role":"a","content":"{n}"}},{{"role":"b"}}]}}"#);
        let text = format!("[{},{}]", run(1), run(2));
        let file = |path: &str, class, text: &str| SourceFile {
            source: "s".to_owned(),
            path: path.to_owned(),
            class,
            bytes: text.as_bytes().to_vec(),
        };
        let mut corpus = Corpus::synthetic(vec![
            file("runs.json", Class::Conversation, &text),
            file("one.jsonl", Class::Conversation, "{\"role\":\"a\"}\n"),
            file("prompt.md", Class::Prompt, "You are"),
        ]);
        let names = |corpus: &Corpus| -> Vec<String> { corpus.originals().map(|each| each.name.to_owned()).collect() };
        assert_eq!(names(&corpus), ["runs.json#0", "runs.json#1", "one.jsonl"]);
        let second = corpus.originals().nth(1).unwrap();
        assert_eq!(second.text, format!(",{}]", run(2)).as_bytes());
        assert_eq!(second.messages().collect::<Vec<_>>(), [&br#"{"role":"a","content":"2"}"#[..], br#"{"role":"b"}"#]);
        corpus.append(Corpus::synthetic(vec![file("two.jsonl", Class::Conversation, "{\"role\":\"a\"}\n")]));
        assert_eq!(names(&corpus).len(), 4);
    }
}
