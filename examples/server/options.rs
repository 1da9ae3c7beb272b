//! The command line.

pub(crate) const HELP: &str = "\
A chat server that remembers.

usage: server [--listen ADDR] [--store STORE] [--upstream URL --model NAME]

  --listen ADDR    where to listen                       [127.0.0.1:8080]
  --store STORE    where conversations live              [sqlite:chat.db]
                     memory:        this process, gone with it
                     sqlite:PATH    one file, shared by the processes of this host
                     redis://HOST (rediss, redis+sentinel, redis+cluster, unix),
                     postgres://USER@HOST/DATABASE, dynamodb://TABLE
                                    shared by all hosts; in a build with --all-features
  --upstream URL   an OpenAI-compatible endpoint to ask, such as http://127.0.0.1:11434/v1,
                   instead of the small built-in model; its key is read from OPENAI_API_KEY
  --model NAME     the model to ask there
  --help           this text

  POST /chat          {\"message\": \"...\"} -> {\"reply\": \"...\", \"turns\": N}
  POST /chat/stream   the same, token by token (SSE), ending in data: [DONE]
  GET /history        the conversation; ?last=N for its newest N turns
  DELETE /history     forgets it
  GET /healthz        the process is alive
  GET /readyz         the store can be reached

Each request names its user in x-user-id (set by the proxy in front, which must drop what clients
send under that name) and its conversation in x-conversation-id.";

pub(crate) struct Options {
    pub(crate) listen: String,
    pub(crate) store: String,
    pub(crate) upstream: Option<Upstream>,
}

pub(crate) struct Upstream {
    pub(crate) url: String,
    pub(crate) model: String,
}

/// `None` when help was asked for.
pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Options>, String> {
    let (mut listen, mut store) = ("127.0.0.1:8080".to_owned(), "sqlite:chat.db".to_owned());
    let (mut url, mut model) = (None, None);
    while let Some(word) = words.next() {
        if word == "--help" || word == "-h" {
            return Ok(None);
        }
        let value = words.next().ok_or_else(|| format!("{word} needs a value"));
        match word.as_str() {
            "--listen" => listen = value?,
            "--store" => store = value?,
            "--upstream" => url = Some(value?),
            "--model" => model = Some(value?),
            _ => return Err(format!("{word} is not an option")),
        }
    }
    let upstream = match (url, model) {
        (Some(url), Some(model)) => Some(Upstream { url, model }),
        (None, None) => None,
        _ => return Err("--upstream and --model go together".to_owned()),
    };
    Ok(Some(Options { listen, store, upstream }))
}
