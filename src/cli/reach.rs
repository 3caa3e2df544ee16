//! Reaching source and target from a command.

use tokio_postgres::Client;

use crate::model::Fault;
use crate::pg::{Conninfo, control};

/// Which server is meant, in what people read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Side::Source => "source",
            Side::Target => "target",
        }
    }

    /// Says of a fault where it happened.
    pub(crate) fn says(self) -> impl Fn(Fault) -> Fault {
        move |fault| fault.context(self.name())
    }

    pub(crate) async fn connect(self, conninfo: &Conninfo, application: &str) -> Result<Client, Fault> {
        control::connect(conninfo, application).await.map_err(|fault| {
            let fault = self.says()(fault);
            if fault.hint.is_some() {
                return fault;
            }
            let name = self.name();
            fault.hint(format!(
                "check --{name} (or PGSLUICE_{}) and that the server runs and lets this role in",
                name.to_uppercase()
            ))
        })
    }
}
