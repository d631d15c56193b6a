//! The report as an HTML page and as JSON, with uncut values, to keep or to attach to a change request.
//!
//! The page is self-contained: it has no script and loads nothing. All outside text is escaped.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;

use roaring::RoaringTreemap;
use serde_json::value::RawValue;

use super::finding::Finding;
use super::journal::Journal;
use super::printout::Printout;
use super::route::Route;
use crate::error::Error;
use crate::part_file::PartFile;

/// A report that is being written.
pub struct ReportFile {
    is_html: bool,
    /// The file, created before the first request: hours later is too late to find that it cannot be written.
    part: PartFile,
}

impl ReportFile {
    /// Returns whether the file's name ends in .html or .json.
    pub fn is_known(path: &Path) -> bool {
        path.extension().is_some_and(|extension| extension == "html" || extension == "json")
    }

    /// Begins a report at `path`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let is_html = path.extension().is_some_and(|extension| extension == "html");
        Ok(Self { is_html, part: PartFile::create(path)? })
    }

    /// Writes the report and puts it into place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(self, printout: &Printout, journal: &mut Journal, done: &RoaringTreemap) -> Result<(), Error> {
        let mut out = self.part.writer()?;
        let written = if self.is_html {
            write_html(&mut out, printout, journal, done)
        } else {
            write_json(&mut out, printout, journal, done)
        };
        written.and_then(|()| out.flush()).map_err(Error::io(self.part.path()))?;
        self.part.put_in_place()
    }
}

fn write_json(
    out: &mut impl Write,
    printout: &Printout,
    journal: &mut Journal,
    done: &RoaringTreemap,
) -> io::Result<()> {
    let summary = printout.to_json().to_string();
    // The lines are JSON and may be long, so they are copied.
    write!(out, "{},\"differences\":[", &summary[..summary.len() - 1])?;
    let mut separator = "";
    journal.each_finding(done, |json| {
        write!(out, "{separator}\n{json}")?;
        separator = ",";
        Ok(())
    })?;
    writeln!(out, "]}}")
}

const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem;
  color: CanvasText; background: Canvas; }
table { border-collapse: collapse; }
th, td { border-bottom: 1px solid color-mix(in srgb, CanvasText 25%, Canvas); padding: .25rem .75rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .5rem .75rem; margin: .25rem 0 1rem; max-height: 30rem;
  overflow: auto; border: 1px solid color-mix(in srgb, CanvasText 25%, Canvas); }
summary { cursor: pointer; overflow-wrap: anywhere; }
.verdict { font-size: 1.25rem; font-weight: 600; border-left: .5rem solid; padding-left: .75rem; }
.alike { border-color: #2a7a3a; } .different, .unknown, .gave_up, .nothing_compared { border-color: #c0392b; }
";

fn write_html(
    out: &mut impl Write,
    printout: &Printout,
    journal: &mut Journal,
    done: &RoaringTreemap,
) -> io::Result<()> {
    let result = printout.conclusion().name();
    writeln!(out, "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">")?;
    writeln!(
        out,
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    )?;
    writeln!(out, "<meta name=\"viewport\" content=\"width=device-width\">")?;
    writeln!(out, "<title>The monolith and the services: {result}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>")?;
    writeln!(out, "<h1>The monolith and the services</h1>")?;
    paragraph(out, &format!("verdict {result}"), &printout.sentence())?;
    paragraph(out, "", &printout.extent())?;
    for remark in printout.remarks() {
        paragraph(out, "", &remark)?;
    }
    writeln!(out, "<h2>What was compared</h2>")?;
    let source = format!("Source of ids and digits: {}", printout.source);
    for line in [
        format!("Monolith: {}", printout.monolith),
        format!("Services: {}", printout.services),
        source,
        format!("Finished: {}", printout.finished),
    ] {
        paragraph(out, "", &line)?;
    }
    table(out, &printout.rows())?;
    paragraph(
        out,
        "",
        "“May differ” is the most paths of a route that may be answered differently, with 95 % confidence.",
    )?;
    if !printout.tally.expected.is_empty() {
        writeln!(out, "<h2>Expected differences</h2>\n<ul>")?;
        for (kind, count) in printout.tally.expected_in(printout.plan) {
            writeln!(out, "<li>{count} in {}</li>", escape(&kind.meaning()))?;
        }
        writeln!(out, "</ul>")?;
    }
    if !printout.tally.unknown.is_empty() {
        writeln!(out, "<h2>Unknown</h2>\n<ul>")?;
        for [path, why] in &printout.tally.unknown {
            writeln!(out, "<li><code>{}</code>: {}</li>", escape(path), escape(why))?;
        }
        writeln!(out, "</ul>")?;
    }
    write_findings(out, printout, journal, done)?;
    writeln!(out, "</body>\n</html>")
}

fn write_findings(
    out: &mut impl Write,
    printout: &Printout,
    journal: &mut Journal,
    done: &RoaringTreemap,
) -> io::Result<()> {
    let read = |json: &RawValue| serde_json::from_str::<Finding>(json.get());
    let mut names = BTreeSet::new();
    journal.each_finding(done, |json| {
        names.insert(read(json)?.route.into_owned());
        Ok(())
    })?;
    let mut routes: Vec<Route> = printout.paths.strata.iter().map(|stratum| stratum.route).collect();
    routes.sort();
    for name in routes.into_iter().map(Route::name).filter(|name| names.contains(&**name)) {
        writeln!(out, "<h2>Differences on {}</h2>", escape(&name))?;
        journal.each_finding(done, |json| {
            let finding = read(json)?;
            if finding.route == name { write_finding(out, &finding) } else { Ok(()) }
        })?;
    }
    Ok(())
}

fn write_finding(out: &mut impl Write, finding: &Finding) -> io::Result<()> {
    let cut = finding.cut();
    writeln!(out, "<details><summary><code>{}</code>: {}</summary>", escape(&cut.path), escape(&cut.text()))?;
    for (name, side) in [("Monolith", &finding.monolith), ("Services", &finding.services)] {
        writeln!(out, "<p>{name}</p><pre>{}</pre>", escape(side.as_deref().unwrap_or("nothing")))?;
    }
    writeln!(out, "</details>")
}

fn paragraph(out: &mut impl Write, class: &str, text: &str) -> io::Result<()> {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    writeln!(out, "<p{class}>{}</p>", escape(text))
}

fn table<const COLUMNS: usize>(out: &mut impl Write, rows: &[[String; COLUMNS]]) -> io::Result<()> {
    writeln!(out, "<table>")?;
    for (nth, row) in rows.iter().enumerate() {
        let tag = if nth == 0 { "th" } else { "td" };
        let cells: String = row.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        writeln!(out, "<tr>{cells}</tr>")?;
    }
    writeln!(out, "</table>")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\'' => escaped += "&#39;",
            other => escaped.push(other),
        }
    }
    escaped
}
