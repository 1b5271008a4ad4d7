// SPDX-License-Identifier: Apache-2.0
//! What became of an object: said as a value, shown at `/status`, later written into the object's conditions.

use serde::Serialize;

use crate::objects::ObjectKey;

/// Something to say about a field of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Report {
    /// The object.
    pub object: ObjectKey,
    /// The field, `spec.rules[0].to`.
    pub field: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong and how to fix it.
    pub message: String,
}

/// What is said of a field, on one line; of an object as a whole it is the message alone.
pub(crate) fn line(field: &str, message: &str) -> String {
    if field.is_empty() { message.to_owned() } else { format!("{field}: {message}") }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The object is wrong: a manifest that has it does not come into force.
    Error,
    /// The object is right but is not, or not wholly, honoured.
    Warning,
    /// The object is right, and something of it is none of the mesh's business.
    Info,
}

/// Collects the reports of one object.
#[derive(Debug)]
pub(crate) struct Reports {
    object: ObjectKey,
    reports: Vec<Report>,
}

impl Reports {
    pub(crate) fn of(object: ObjectKey) -> Self {
        Self { object, reports: Vec::new() }
    }

    pub(crate) fn error(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field.into(), Severity::Error, message.into());
    }

    pub(crate) fn warning(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field.into(), Severity::Warning, message.into());
    }

    pub(crate) fn info(&mut self, field: impl Into<String>, message: impl Into<String>) {
        self.push(field.into(), Severity::Info, message.into());
    }

    fn push(&mut self, field: String, severity: Severity, message: String) {
        self.reports.push(Report { object: self.object.clone(), field, severity, message });
    }

    pub(crate) fn so_far(&self) -> &[Report] {
        &self.reports
    }

    pub(crate) fn done(self) -> Vec<Report> {
        self.reports
    }
}
