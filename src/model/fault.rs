//! What went wrong, and what may be done about it.

use std::fmt;

/// What the caller of a failed operation may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Nothing happened on the other side; the same call may succeed later (refused or cut connection, lock).
    Retry,
    /// It may have happened: read the progress again, then retry (connection lost during COMMIT).
    Reread,
    /// Trying again is of no use until something is mended (exit code 1).
    Stop,
    /// What was typed is wrong (exit code 2).
    Usage,
    /// A comparison or a verification found a difference (exit code 3).
    Difference,
    /// The source or the archive can't continue without a person (exit code 4).
    Person,
}

/// An error with its remedy. The message says what happened and where; the hint says what to try.
/// Neither ever holds a secret.
#[derive(Clone, Debug)]
pub struct Fault {
    pub remedy: Remedy,
    pub message: String,
    pub hint: Option<String>,
    /// The SQLSTATE that PostgreSQL gave, where the fault is its answer.
    pub sqlstate: Option<String>,
}

impl Fault {
    fn new(remedy: Remedy, message: impl Into<String>) -> Fault {
        Fault { remedy, message: message.into(), hint: None, sqlstate: None }
    }

    pub fn retry(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Retry, message)
    }

    pub fn reread(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Reread, message)
    }

    pub fn stop(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Stop, message)
    }

    pub fn usage(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Usage, message)
    }

    pub fn difference(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Difference, message)
    }

    pub fn person(message: impl Into<String>) -> Fault {
        Fault::new(Remedy::Person, message)
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Fault {
        self.hint = Some(hint.into());
        self
    }

    pub fn sqlstate(mut self, code: impl Into<String>) -> Fault {
        self.sqlstate = Some(code.into());
        self
    }

    /// Says where it happened: `context: message`.
    pub fn context(mut self, context: impl fmt::Display) -> Fault {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The exit code of a program that ends on this fault (`CLI` contract).
    pub fn exit_code(&self) -> u8 {
        match self.remedy {
            Remedy::Retry | Remedy::Reread | Remedy::Stop => 1,
            Remedy::Usage => 2,
            Remedy::Difference => 3,
            Remedy::Person => 4,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}
