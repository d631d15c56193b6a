//! The reference page: Swagger UI, which shows the OpenAPI document of this service and sends requests to it.
//!
//! ```text
//! GET /api/{collection}/-/docs          the page
//! GET /api/{collection}/docs            the same, unless ids are texts: a record could have this one
//! GET /api/{collection}/-/docs/start.js a file of the page
//! GET /api/{collection}/-/problems      the kinds of problems, to which their types lead
//! ```
//!
//! Its files are in the program, so that no byte comes from elsewhere. The large ones are compressed there and sent so: all
//! browsers take gzip.

use bytes::Bytes;
use headers::HeaderMapExt;
use record::model::Collection;
use warp::http::HeaderMap;
use warp::http::header::{
    CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use warp::reply::Response;

use crate::condition::entity_tag;
use crate::problem::{KINDS, Kind, title_of};
use crate::reply::Answer;

/// What the page may do: load its own files, and ask the host that it came from. Swagger UI sets styles of elements.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum File {
    /// The page itself.
    Page,
    /// Swagger UI's program.
    Program,
    /// Its looks.
    Style,
    /// What starts it.
    Start,
    /// The page of problems.
    Problems,
}

impl File {
    /// The files that the page loads, by name.
    pub(crate) const LOADED: [(&'static str, File); 3] =
        [("swagger-ui-bundle.js", File::Program), ("swagger-ui.css", File::Style), ("start.js", File::Start)];

    /// Returns the loaded file with this name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::LOADED.into_iter().find(|(known, _)| *known == name).map(|(_, file)| file)
    }

    /// Answers with the file, for the service of `collection`.
    pub(crate) fn answer(self, collection: Collection) -> Answer {
        let content = match self {
            Self::Page => include_str!("../swagger-ui/page.html").replace("NAME", collection.name()).into(),
            Self::Program => Bytes::from_static(include_bytes!("../swagger-ui/swagger-ui-bundle.js.gz")),
            Self::Style => Bytes::from_static(include_bytes!("../swagger-ui/swagger-ui.css.gz")),
            Self::Start => Bytes::from_static(include_bytes!("../swagger-ui/start.js")),
            Self::Problems => write_problems(collection).into(),
        };
        let kind = match self {
            Self::Page | Self::Problems => "text/html; charset=utf-8",
            Self::Style => "text/css; charset=utf-8",
            Self::Program | Self::Start => "text/javascript; charset=utf-8",
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.typed_insert(entity_tag(0, &content));
        match self {
            Self::Page | Self::Problems => {
                headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
                headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
            }
            Self::Program | Self::Style => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            }
            Self::Start => {}
        }
        let mut response = Response::new(content.into());
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// Writes the page of problems.
fn write_problems(collection: Collection) -> String {
    let name = collection.name();
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, \
         initial-scale=1\">\n<title>Problems of {name}</title>\n<style>body {{ max-width: 42rem; margin: 2rem auto; padding: 0 1rem; \
         font: 1rem/1.5 sans-serif }} :target {{ background: #ffc }}</style>\n<h1>Problems of {name}</h1>\n<p>An error of \
         <a href=\"/api/{name}/-/docs\">the API</a> is a document of RFC 9457. Its <code>type</code> leads to one of these; its \
         <code>detail</code> says what is wrong with the request.</p>\n"
    );
    for Kind { reason, status, advice } in KINDS {
        let (code, title) = (status.as_u16(), title_of(status));
        let advice = advice.split('`').enumerate().fold(String::new(), |text, (nth, part)| match nth {
            0 => part.to_owned(),
            nth if nth % 2 == 1 => text + "<code>" + part,
            _ => text + "</code>" + part,
        });
        page += &format!("<section id=\"{reason}\">\n<h2>{reason}</h2>\n<p>{code} {title}. {advice}</p>\n</section>\n");
    }
    page + "</html>\n"
}
