//! A page that quotes the log as it is.

/// The source as one line: messages are broken over lines there.
fn source() -> String {
    fn read(folder: &std::path::Path, into: &mut String) {
        for entry in std::fs::read_dir(folder).expect("the source is there") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                read(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&std::fs::read_to_string(path).expect("it can be read"));
            }
        }
    }
    let mut text = String::new();
    read(&std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    text.replace("\\\n", "").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_page_quotes_the_log_as_it_is() {
    let (page, source) = (include_str!("../../src/docs/why-is-my-history-empty.md"), source());
    let mut quoted = 0;
    for (index, part) in page.split('`').enumerate() {
        // Code stands between back-ticks: the odd parts.
        let levels = ["ERROR ", "WARN ", "INFO ", "DEBUG "];
        let Some(message) = levels.iter().find_map(|level| part.strip_prefix(level)).filter(|_| index % 2 == 1) else {
            continue;
        };
        let message = message.split(" outcome=").next().expect("the message");
        let message = message.split(", and is given").next().expect("its beginning");
        assert!(source.contains(message), "the page quotes what the log never says: {message}");
        quoted += 1;
    }
    assert!(quoted >= 14, "{quoted} lines found");
}
