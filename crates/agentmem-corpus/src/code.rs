//! Invented source files, whose lines resemble each other as those of real ones do.

use crate::random::Random;
use crate::words::{Vocabulary, push_capitalised, uneven};

/// Identifiers that one file uses.
const IDENTIFIERS: usize = 40;

/// One line each: `i` stands for an identifier, `I` for one with a capital, `w` for a word, all behind a `$`.
const TEMPLATES: [&str; 28] = [
    "}",
    "",
    "if err != nil {",
    "return nil, err",
    "$i, err := $i.$I($i)",
    "$i := $i.$I($i, $i)",
    "$i.$I = $i",
    "return fmt.Errorf(\\\"$w $w $w: %w\\\", err)",
    "// $I $w $w $w $w $w $w $w.",
    "func (s *$I) $I($i string, $i int) error {",
    "for _, $i := range $i.$I {",
    "if $i == nil || $i.$I == 0 {",
    "$I: $i,",
    "t.Errorf(\\\"$I() = %v, $w %v\\\", $i, $i)",
    "$i = append($i, $i.$I($i))",
    "if !strings.Contains($i, \\\"$w-$w\\\") {",
    "defer $i.$I()",
    "} else {",
    "type $I struct {",
    "$I string `json:\\\"$w_$w\\\"`",
    "$i, ok := $i[$i]",
    "case $I.$I:",
    "return $i.$I($i.$I, \\\"$w\\\")",
    "name: \\\"$w $w $w $w\\\",",
    "log.$I(\\\"$w $w $w $w\\\", \\\"$w\\\", $i)",
    "os.$I(filepath.Join($i, \\\"$w\\\", \\\"$w.$w\\\"), $i)",
    "// $w $w $w $w $w $w $w $w $w",
    "require.$I(t, $i.$I($i), $i)",
];

/// A source file of a conversation's project. Lines are kept as a JSON string holds them.
pub(crate) struct CodeFile {
    pub(crate) path: String,
    identifiers: Vec<String>,
    lines: Vec<String>,
    indent: usize,
}

impl CodeFile {
    pub(crate) fn new(random: &mut Random, vocabulary: &Vocabulary) -> CodeFile {
        let path = format!(
            "{}/{}/{}_{}.go",
            vocabulary.word(random),
            vocabulary.word(random),
            vocabulary.word(random),
            vocabulary.word(random)
        );
        let identifier = |_| {
            let mut name = vocabulary.word(random).to_owned();
            if random.chance(0.6) {
                push_capitalised(vocabulary.word(random), &mut name);
            }
            name
        };
        CodeFile { path, identifiers: (0..IDENTIFIERS).map(identifier).collect(), lines: Vec::new(), indent: 0 }
    }

    /// The line with the given index. A file has as many lines as are looked at.
    pub(crate) fn line(&mut self, index: usize, random: &mut Random, vocabulary: &Vocabulary) -> &str {
        while self.lines.len() <= index {
            let line = self.new_line(random, vocabulary);
            self.lines.push(line);
        }
        &self.lines[index]
    }

    /// Changes one of the lines that exist.
    pub(crate) fn edit(&mut self, random: &mut Random, vocabulary: &Vocabulary) {
        if !self.lines.is_empty() {
            let index = random.below(self.lines.len());
            self.lines[index] = self.new_line(random, vocabulary);
        }
    }

    fn new_line(&mut self, random: &mut Random, vocabulary: &Vocabulary) -> String {
        let template = TEMPLATES[uneven(random, TEMPLATES.len())];
        if template.starts_with('}') {
            self.indent = self.indent.saturating_sub(1);
        }
        let mut line = "\\t".repeat(self.indent);
        if template.ends_with('{') {
            self.indent = (self.indent + 1).min(4);
        }
        let mut parts = template.split('$');
        line.push_str(parts.next().unwrap_or_default());
        for part in parts {
            let (kind, rest) = part.split_at(1);
            let identifier = &self.identifiers[uneven(random, self.identifiers.len())];
            match kind {
                "i" => line.push_str(identifier),
                "I" => push_capitalised(identifier, &mut line),
                _ => line.push_str(vocabulary.word(random)),
            }
            line.push_str(rest);
        }
        line.push_str("\\n");
        line
    }
}
