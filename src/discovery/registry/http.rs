//! The HTTP client of a registry: its address, its certificates, and what its answers mean when they are none.
//!
//! Redirections and proxies are not followed: they would see the token. Bounds: an answer of 64 MiB.

use super::{Away, REQUEST};
use crate::config::Registry;
use crate::discovery::DiscoveryError;
use crate::tls;
use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use rustls::ClientConfig;
use std::time::Duration;

/// A connection over which nothing comes is probed: a host that is gone says nothing, and some questions wait long.
const PROBE_AFTER: Duration = Duration::from_secs(5);
const PROBES_MAX: u32 = 3;
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Of a refusal.
const REASON_CHARS_MAX: usize = 200;

/// See the module.
#[derive(Debug)]
pub struct Http {
    client: Client,
    base: Url,
    service: &'static str,
}

impl Http {
    /// `headers` go with every question.
    ///
    /// Errors: certificates that cannot be used.
    pub fn new(service: &'static str, at: &Registry, headers: HeaderMap) -> Result<Self, DiscoveryError> {
        let mut builder = Client::builder()
            .default_headers(headers)
            .redirect(Policy::none())
            .no_proxy()
            .connect_timeout(REQUEST)
            .tcp_keepalive(PROBE_AFTER)
            .tcp_keepalive_interval(PROBE_AFTER)
            .tcp_keepalive_retries(PROBES_MAX);
        if at.address.scheme() == "https" {
            builder = builder.use_preconfigured_tls(tls(service, at)?);
        }
        let client = builder.build().map_err(|error| DiscoveryError::Http(told(&error)))?;
        Ok(Http { client, base: at.address.clone(), service })
    }

    /// A question under this path; each part of it may have any characters.
    pub fn question(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.clear().extend(path);
        }
        self.client.request(method, url)
    }

    /// Asks, and reads the whole answer.
    pub async fn answer(&self, question: RequestBuilder) -> Result<String, Away> {
        let response = self.send(question.timeout(REQUEST)).await?;
        self.text(self.good(response).await?).await
    }

    /// Asks, and reads the head of the answer.
    pub async fn send(&self, question: RequestBuilder) -> Result<Response, Away> {
        question.send().await.map_err(|error| self.unreachable(error))
    }

    /// The same answer, unless it is a refusal.
    pub async fn good(&self, response: Response) -> Result<Response, Away> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = self.text(response).await?;
        let text = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(REASON_CHARS_MAX).collect();
        Err(Away::Refused { service: self.service, status: status.as_u16(), text })
    }

    /// The whole of what follows the head.
    pub async fn text(&self, mut response: Response) -> Result<String, Away> {
        let mut bytes = Vec::new();
        while let Some(some) = response.chunk().await.map_err(|error| self.unreachable(error))? {
            bytes.extend_from_slice(&some);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(self.unexpected("an answer without an end"));
            }
        }
        String::from_utf8(bytes).map_err(|_| self.unexpected("bytes that are no text"))
    }

    /// No answer.
    pub fn unreachable(&self, error: reqwest::Error) -> Away {
        // What was asked is nothing to an operator; where is.
        let cause = format!("{}: {}", self.base.as_str().trim_end_matches('/'), told(&error.without_url()));
        Away::Unreachable { service: self.service, cause }
    }

    /// An answer that cannot be.
    pub fn unexpected(&self, text: &str) -> Away {
        Away::Unexpected { service: self.service, text: text.to_owned() }
    }
}

/// With its causes: what reqwest says itself is only that it failed.
fn told(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn tls(service: &'static str, at: &Registry) -> Result<ClientConfig, DiscoveryError> {
    let told = |bad: tls::BadCertificates| DiscoveryError::Certificates {
        service,
        file: bad.file,
        path: bad.path,
        reason: bad.reason,
    };
    tls::client(at.ca.as_deref(), at.identity.as_deref()).map_err(told)
}
