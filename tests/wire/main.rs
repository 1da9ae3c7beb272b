//! The layer on real sockets: HTTP/1 and HTTP/2, real servers, real clients.

mod inputs;
mod leaving;
mod matrix;
mod support;
