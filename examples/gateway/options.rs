//! The command line.

use std::time::Duration;

pub(crate) const HELP: &str = "\
A reverse proxy that gives any LLM endpoint a memory.

  --upstream URL       where requests go: https://host/base, or demo: for a scripted model
  --listen ADDR        default 127.0.0.1:8090
  --store STORE        memory: (the default), sqlite:PATH; in a build with --all-features also
                       redis://HOST (rediss, redis+sentinel, redis+cluster, unix),
                       postgres://USER@HOST/DATABASE, dynamodb://TABLE
  --window-tokens N    the most tokens of history that a model is shown; default: no limit
  --silence SECONDS    how long the upstream may say nothing; default 120
  --jwks FILE          verify bearer tokens with these keys (feature jwt-rust-crypto or jwt-aws-lc)
  --issuer ISS         with --jwks: the issuer of the tokens
  --audience AUD       with --jwks: their audience
  --algorithm ALG      with --jwks: default RS256
  --help

Clients are the providers' own SDKs with this address as their base URL and a header
x-conversation-id; without it they are told the id of a fresh conversation. They send only what is new:

  curl localhost:8090/v1/chat/completions -H 'x-user-id: ada' -H 'x-conversation-id: c1' \\
       -H 'content-type: application/json' \\
       -d '{\"model\":\"demo\",\"messages\":[{\"role\":\"user\",\"content\":\"My name is Ada.\"}]}'

Who is asking: with --jwks the subject of the bearer token, which is not forwarded; else the header
x-user-id, set by a proxy in front, and the client's Authorization goes on to the upstream.
UPSTREAM_HEADER in the environment, such as 'x-api-key: KEY' or 'authorization: Bearer KEY', is sent
to the upstream in place of the client's own.
Health: GET /healthz (the process), GET /readyz (the store too).";

pub(crate) struct Options {
    pub(crate) upstream: String,
    pub(crate) listen: String,
    pub(crate) store: String,
    pub(crate) window_tokens: Option<usize>,
    pub(crate) silence: Duration,
    pub(crate) jwks: Option<String>,
    pub(crate) issuer: String,
    pub(crate) audience: String,
    pub(crate) algorithm: String,
}

impl Options {
    /// `None` when help was asked for.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Self {
            upstream: String::new(),
            listen: "127.0.0.1:8090".to_owned(),
            store: "memory:".to_owned(),
            window_tokens: None,
            silence: Duration::from_secs(120),
            jwks: None,
            issuer: String::new(),
            audience: String::new(),
            algorithm: "RS256".to_owned(),
        };
        while let Some(name) = arguments.next() {
            if name == "--help" || name == "-h" {
                return Ok(None);
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<u32>().map_err(|_| format!("{name} {value}: a number, please"));
            match &*name {
                "--upstream" => options.upstream = value,
                "--listen" => options.listen = value,
                "--store" => options.store = value,
                "--window-tokens" => options.window_tokens = Some(number()? as usize),
                "--silence" => options.silence = Duration::from_secs(u64::from(number()?.max(1))),
                "--jwks" => options.jwks = Some(value),
                "--issuer" => options.issuer = value,
                "--audience" => options.audience = value,
                "--algorithm" => options.algorithm = value,
                _ => return Err(format!("{name}: no such option")),
            }
        }
        if options.upstream.is_empty() {
            return Err("--upstream is missing".to_owned());
        }
        let claims = [&options.issuer, &options.audience];
        if options.jwks.is_some() && claims.iter().any(|claim| claim.is_empty()) {
            return Err("--jwks needs --issuer and --audience".to_owned());
        }
        if options.jwks.is_none() && claims.iter().any(|claim| !claim.is_empty()) {
            return Err("--issuer and --audience go with --jwks".to_owned());
        }
        Ok(Some(options))
    }
}
