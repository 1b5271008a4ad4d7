// SPDX-License-Identifier: Apache-2.0
//! Paths and lines.

use super::*;

#[test]
fn a_path_reads_back_as_it_is_written() {
    for text in
        ["spec.rules[0].from[12].source", "metadata.labels[\"app.kubernetes.io/name\"]", "spec", "", "[3].a"]
    {
        assert_eq!(Path::parse(text).to_string(), text);
    }
}

#[test]
fn a_field_has_its_line_and_a_missing_one_that_of_what_is_around_it() {
    let documents = documents("a:\n  b:\n  - c: 1\n    d: 2\n  - c: 3\ne: >\n  text\n").unwrap();
    let [document] = documents.as_slice() else { panic!("one document") };
    for (path, line) in [
        ("", 1),
        ("a", 1),
        ("a.b", 2),
        ("a.b[0]", 3),
        ("a.b[0].d", 4),
        ("a.b[1].c", 5),
        ("a.b[1].missing.deeper", 5),
        ("a.b[9]", 2),
        ("e", 6),
    ] {
        assert_eq!(document.line_of(&Path::parse(path)), line, "{path}");
    }
}
