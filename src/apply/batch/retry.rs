//! What was set aside, brought: each transaction of the source in one of the target, together with the end of its note. While that is done the
//! stream is ours, so no applier goes by it.

use tokio::sync::watch;

use super::super::Applied;
use super::super::dead::{Held, Resolved, Said, is_about_rows, of_tables, pins};
use super::super::describe;
use super::shaped::Piece;
use super::{Applier, Run};
use crate::model::{Fault, Position, Remedy};
use crate::pg::dead::{self, Note};
use crate::pgoutput::{Begin, Message};
use crate::rules::Spare;
use crate::transform::{Parameters, Step};

impl Applier<'_> {
    /// Takes the stream, and reads what is set aside of it.
    async fn take_stream(&mut self) -> Result<(Run, Vec<Note>), Fault> {
        let (told, _) = watch::channel(Applied::default());
        // Nobody asks it to end: the command itself is ended.
        let (_, stop) = watch::channel(false);
        let run = self.connect(told, stop).await?;
        if run.lanes.torn().is_some() {
            return Err(Fault::stop("a batch was committed by some of its lanes only")
                .hint("run pgsluice follow, or apply, which ends it; then stop it and run this again"));
        }
        let notes = dead::read(&run.catalog, &self.target.stream).await?;
        Ok((run, notes))
    }

    /// Brings these, or all, in the order of the log, up to the first that can't be.
    pub(in crate::apply) async fn retry(&mut self, chosen: &[Position]) -> Result<Resolved, Fault> {
        let (mut run, notes) = self.take_stream().await?;
        refuse_unknown(&notes, chosen)?;
        let (mut done, mut failed, mut stays) = (Vec::new(), None, Held::default());
        for note in &notes {
            let is_chosen = chosen.is_empty() || chosen.contains(&note.lsn);
            if !is_chosen || !stays.is_empty() {
                let (rows, holder) = self.rows_of(&mut run, note, &stays, true).await?;
                if !is_chosen {
                    stays.add(rows, note.lsn);
                    continue;
                }
                if let Some(by) = holder {
                    let message = format!(
                        "it changes rows of the transaction that ends at {by}, which stays set aside"
                    );
                    failed = Some((note.lsn, Fault::stop(message).hint("bring, or skip, that one first")));
                    break;
                }
            }
            match self.bring(&mut run, note).await {
                Ok(()) => done.push(note.lsn),
                Err(fault) => {
                    if is_about_rows(&fault) {
                        dead::note_error(&run.catalog, &self.target.stream, note.lsn, &fault).await?;
                    }
                    failed = Some((note.lsn, fault));
                    break;
                }
            }
        }
        let left = notes.len() - done.len();
        if failed.as_ref().is_none_or(|(_, fault)| !matches!(fault.remedy, Remedy::Retry | Remedy::Reread)) {
            self.keep_no_more(&run).await;
        }
        Ok(Resolved { done, left, failed })
    }

    /// Forgets these; with what changes their rows later, if that is wanted.
    pub(in crate::apply) async fn skip(
        &mut self,
        chosen: &[Position],
        with_dependents: bool,
    ) -> Result<Resolved, Fault> {
        let (mut run, notes) = self.take_stream().await?;
        refuse_unknown(&notes, chosen)?;
        let (mut gone, mut dependents, mut held, mut is_unknown) =
            (Vec::new(), Vec::new(), Held::default(), false);
        for note in &notes {
            let is_chosen = chosen.contains(&note.lsn);
            if !is_chosen && held.is_empty() && !is_unknown {
                continue;
            }
            let depends = match self.rows_of(&mut run, note, &held, true).await {
                Ok((rows, holder)) if is_chosen || holder.is_some() => {
                    held.add(rows, note.lsn);
                    true
                }
                Ok(_) => is_unknown,
                // Without its changes in the log any later one may depend on it.
                Err(fault) if fault.remedy == Remedy::Person => {
                    tracing::warn!(lsn = %note.lsn, error = %fault, "its rows are not known");
                    is_unknown = true;
                    true
                }
                Err(fault) => return Err(fault),
            };
            if depends {
                gone.push(note.lsn);
                dependents.extend((!is_chosen).then_some(note.lsn));
            }
        }
        if !dependents.is_empty() && !with_dependents {
            let names: Vec<_> = dependents.iter().map(Position::to_string).collect();
            let message = format!("later transactions that are set aside depend on it: {}", names.join(", "));
            return Err(Fault::stop(message).hint("--with-dependents skips them too"));
        }
        dead::forget(&mut run.catalog, &self.target.stream, &gone).await?;
        let left = notes.len() - gone.len();
        self.keep_no_more(&run).await;
        Ok(Resolved { done: gone, left, failed: None })
    }

    /// While the stream is ours still, so that nobody sets more of it aside meanwhile.
    async fn keep_no_more(&self, run: &Run) {
        if let Err(error) =
            pins::release(self.archive, &run.catalog, &self.target.conninfo, &self.target.stream).await
        {
            tracing::warn!(%error, "more of the log is kept than is needed; the next applier ends that");
        }
    }

    /// Brings the changes of one, and ends its note.
    async fn bring(&mut self, run: &mut Run, note: &Note) -> Result<(), Fault> {
        let brought = self.try_bring(run, note).await;
        if brought.is_err() {
            run.lanes.rollback().await?;
        }
        brought
    }

    async fn try_bring(&mut self, run: &mut Run, note: &Note) -> Result<(), Fault> {
        run.lanes.begin(1).await?;
        // The log is kept no longer once its note is gone.
        run.lanes.main.execute_sql("SET LOCAL synchronous_commit = on", &[]).await?;
        let mut letter = self.letter(note)?;
        let begin = 'read: loop {
            let frame = tokio::task::block_in_place(|| letter.frame())?;
            for record in frame.records() {
                match letter.read(record)? {
                    None => {}
                    Some(Said::Definition(definition)) => self.note_definition(definition),
                    Some(Said::Change(begin, change)) => {
                        let mut spare = None;
                        if let Some(rest) = of_tables(&note.tables, &change, &mut spare) {
                            let is_part = !std::ptr::eq(rest, &change);
                            self.bring_change(run, rest, is_part, begin).await?;
                        }
                    }
                    Some(Said::Commit(begin)) => break 'read begin,
                }
            }
        };
        let session = &mut run.lanes.main;
        let name = [Some(self.target.stream.clone()), Some(note.lsn.to_string())];
        session.execute_sql(dead::FORGET, &name).await?;
        let at = session.progress();
        let committed = async {
            session.verdict().await?;
            session.commit().await?;
            session.committed(at).await
        };
        committed.await.map_err(|refused| refused.fault.context(describe::transaction(begin, note.lsn)))
    }

    async fn bring_change(
        &mut self,
        run: &mut Run,
        change: &Message<'_>,
        is_part: bool,
        begin: Begin,
    ) -> Result<(), Fault> {
        self.refuse_filtered(run, change).await?;
        let mut spare = Spare::default();
        let pieces = self.pieces(change, begin, is_part, &mut spare).map_err(|refusal| {
            Fault::from(refusal).context(describe::of_tables(|oid| self.shaper.source(oid), change, begin))
        })?;
        for piece in &pieces {
            let brought = self.bring_piece(run, piece).await;
            brought.map_err(|fault| fault.context(self.in_words(piece, begin)))?;
        }
        Ok(())
    }

    async fn bring_piece<'v>(&mut self, run: &mut Run, piece: &Piece<'_, 'v, 'v>) -> Result<(), Fault> {
        let mut parameters = Parameters::default();
        loop {
            match self.plan_piece(piece, &mut parameters).map_err(Fault::from)? {
                Step::LookUp(oid) => self.look_up(run, oid).await?,
                Step::Nothing => return Ok(()),
                Step::Execute(statement) => {
                    return run.lanes.main.execute(statement, parameters.values()).await;
                }
            }
        }
    }
}

fn refuse_unknown(notes: &[Note], chosen: &[Position]) -> Result<(), Fault> {
    match chosen.iter().find(|lsn| notes.iter().all(|note| note.lsn != **lsn)) {
        None => Ok(()),
        Some(lsn) => Err(Fault::usage(format!("no transaction that ends at {lsn} is set aside"))
            .hint("pgsluice dead list shows those that are")),
    }
}
