"""The tables of the store. A change of shape is a new function at the end; none is ever edited."""

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

migrations = Migrations("rlhf-studio")


@migrations()
def m001_first(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE model_versions (
            id INTEGER PRIMARY KEY, name TEXT NOT NULL, kind TEXT NOT NULL CHECK (kind IN ('base','policy','reward')),
            parent_id INTEGER REFERENCES model_versions(id), base TEXT NOT NULL, base_fingerprint TEXT NOT NULL,
            run_id INTEGER REFERENCES runs(id), facts TEXT NOT NULL DEFAULT '{}', promoted INTEGER NOT NULL DEFAULT 0,
            note TEXT NOT NULL DEFAULT '', created TEXT NOT NULL, deleted TEXT);
        CREATE TABLE conversations (
            id INTEGER PRIMARY KEY, title TEXT NOT NULL, created TEXT NOT NULL, deleted TEXT);
        -- A prompt continues the response before it, so a conversation is a tree; the open end is its last prompt.
        CREATE TABLE prompts (
            id INTEGER PRIMARY KEY, conversation_id INTEGER REFERENCES conversations(id),
            parent_response_id INTEGER REFERENCES responses(id), text TEXT NOT NULL, source TEXT NOT NULL,
            created TEXT NOT NULL);
        CREATE TABLE responses (
            id INTEGER PRIMARY KEY, prompt_id INTEGER NOT NULL REFERENCES prompts(id),
            model_version_id INTEGER NOT NULL REFERENCES model_versions(id), text TEXT NOT NULL,
            tokens INTEGER NOT NULL, seed INTEGER NOT NULL, sampling TEXT NOT NULL, finish TEXT NOT NULL,
            created TEXT NOT NULL);
        -- Append-only. A changed mind is a newer row about the same thing; an undo is a row that names another.
        CREATE TABLE feedback (
            id INTEGER PRIMARY KEY,
            kind TEXT NOT NULL CHECK (kind IN ('rating','ranking','edit','tag','comment','undo')),
            prompt_id INTEGER NOT NULL REFERENCES prompts(id), response_id INTEGER REFERENCES responses(id),
            value TEXT NOT NULL, undoes INTEGER REFERENCES feedback(id), annotator TEXT NOT NULL DEFAULT 'person',
            created TEXT NOT NULL);
        CREATE TRIGGER feedback_never_changes BEFORE UPDATE ON feedback
            BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
        CREATE TRIGGER feedback_never_goes BEFORE DELETE ON feedback
            BEGIN SELECT RAISE(ABORT, 'feedback is append-only'); END;
        CREATE TABLE runs (
            id INTEGER PRIMARY KEY, method TEXT NOT NULL, status TEXT NOT NULL, config TEXT NOT NULL,
            stage TEXT NOT NULL DEFAULT '', done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
            parent_version_id INTEGER REFERENCES model_versions(id),
            model_version_id INTEGER REFERENCES model_versions(id),
            pid INTEGER, process_started REAL, heartbeat TEXT, stop_requested INTEGER NOT NULL DEFAULT 0,
            reason TEXT NOT NULL DEFAULT '', result TEXT NOT NULL DEFAULT '{}',
            created TEXT NOT NULL, started TEXT, ended TEXT);
        CREATE TABLE stages (
            run_id INTEGER NOT NULL REFERENCES runs(id), name TEXT NOT NULL, started REAL NOT NULL, ended REAL,
            PRIMARY KEY (run_id, name));
        CREATE TABLE run_feedback (
            run_id INTEGER NOT NULL REFERENCES runs(id), feedback_id INTEGER NOT NULL REFERENCES feedback(id),
            split TEXT NOT NULL, PRIMARY KEY (run_id, feedback_id));
        CREATE TABLE metrics (
            run_id INTEGER NOT NULL REFERENCES runs(id), stage TEXT NOT NULL, step INTEGER NOT NULL,
            name TEXT NOT NULL, value REAL, PRIMARY KEY (run_id, stage, name, step)) WITHOUT ROWID;
        CREATE TABLE samples (
            id INTEGER PRIMARY KEY, run_id INTEGER NOT NULL REFERENCES runs(id), step INTEGER NOT NULL,
            prompt TEXT NOT NULL, text TEXT NOT NULL, reward REAL);
        CREATE TABLE comparisons (
            id INTEGER PRIMARY KEY, before_id INTEGER NOT NULL REFERENCES model_versions(id),
            after_id INTEGER NOT NULL REFERENCES model_versions(id), run_id INTEGER REFERENCES runs(id),
            result TEXT NOT NULL DEFAULT '{}', created TEXT NOT NULL);
        CREATE TABLE comparison_items (
            id INTEGER PRIMARY KEY, comparison_id INTEGER NOT NULL REFERENCES comparisons(id), prompt TEXT NOT NULL,
            before TEXT NOT NULL, after TEXT NOT NULL, facts TEXT NOT NULL DEFAULT '{}');
        CREATE TABLE votes (
            id INTEGER PRIMARY KEY, item_id INTEGER NOT NULL REFERENCES comparison_items(id),
            choice TEXT NOT NULL CHECK (choice IN ('before','after','tie')), blind INTEGER NOT NULL,
            created TEXT NOT NULL);
        CREATE INDEX prompts_by_conversation ON prompts(conversation_id);
        CREATE INDEX responses_by_prompt ON responses(prompt_id);
        CREATE INDEX feedback_by_prompt ON feedback(prompt_id);
        CREATE INDEX feedback_by_undoes ON feedback(undoes);
        CREATE INDEX samples_by_run ON samples(run_id, step);
        CREATE INDEX items_by_comparison ON comparison_items(comparison_id);
        CREATE INDEX votes_by_item ON votes(item_id);
        -- The state of mind now: rows that stand, and of those about the same thing the newest.
        CREATE VIEW standing_feedback AS
            SELECT * FROM feedback f WHERE kind != 'undo'
            AND NOT EXISTS (SELECT 1 FROM feedback u WHERE u.kind = 'undo' AND u.undoes = f.id);
        CREATE VIEW current_feedback AS
            SELECT * FROM standing_feedback WHERE id IN (
                SELECT max(id) FROM standing_feedback
                GROUP BY kind, prompt_id, response_id, annotator, CASE WHEN kind = 'tag' THEN value END);
        CREATE VIEW current_votes AS SELECT * FROM votes WHERE id IN (SELECT max(id) FROM votes GROUP BY item_id);
        """
    )


@migrations()
def m002_imported_responses(db: Database) -> None:
    """A response that was brought in comes from no model version."""
    db.table("responses").transform(not_null={"model_version_id": False})


@migrations()
def m003_labelling(db: Database) -> None:
    """Label asks for the open items of a source at every turn; Data lists feedback by kind."""
    db.table("prompts").create_index(["source"], "prompts_by_source", if_not_exists=True)
    db.table("feedback").create_index(["kind"], "feedback_by_kind", if_not_exists=True)


@migrations()
def m004_current_ids(db: Database) -> None:
    """What stands now, kept as feedback comes in: finding it anew for every look costs more with every ranking."""
    db.executescript(
        """
        CREATE TABLE current_ids (id INTEGER PRIMARY KEY REFERENCES feedback(id), kind TEXT NOT NULL,
            prompt_id INTEGER NOT NULL);
        INSERT INTO current_ids SELECT id, kind, prompt_id FROM current_feedback;
        CREATE INDEX current_by_prompt ON current_ids(prompt_id, kind);
        CREATE INDEX current_by_kind ON current_ids(kind, prompt_id);
        CREATE INDEX feedback_about ON feedback(prompt_id, kind, response_id, annotator);
        -- A newer row about the same thing takes the older one's place ...
        CREATE TRIGGER feedback_becomes_current AFTER INSERT ON feedback WHEN NEW.kind != 'undo' BEGIN
            DELETE FROM current_ids WHERE id IN (SELECT id FROM feedback WHERE prompt_id = NEW.prompt_id
                AND kind = NEW.kind AND response_id IS NEW.response_id AND annotator = NEW.annotator
                AND (kind != 'tag' OR value = NEW.value));
            INSERT INTO current_ids VALUES (NEW.id, NEW.kind, NEW.prompt_id);
        END;
        -- ... and one that is taken back gives it to the newest of those that still stand.
        CREATE TRIGGER feedback_is_taken_back AFTER INSERT ON feedback WHEN NEW.kind = 'undo' BEGIN
            DELETE FROM current_ids WHERE id = NEW.undoes;
            INSERT OR IGNORE INTO current_ids SELECT f.id, f.kind, f.prompt_id FROM feedback o JOIN feedback f
                ON f.prompt_id = o.prompt_id AND f.kind = o.kind AND f.response_id IS o.response_id
                AND f.annotator = o.annotator AND (f.kind != 'tag' OR f.value = o.value)
                WHERE o.id = NEW.undoes AND NOT EXISTS
                (SELECT 1 FROM feedback u WHERE u.kind = 'undo' AND u.undoes = f.id) ORDER BY f.id DESC LIMIT 1;
        END;
        DROP VIEW current_feedback;
        CREATE VIEW current_feedback AS SELECT f.* FROM current_ids c JOIN feedback f ON f.id = c.id;
        """
    )


@migrations()
def m005_asked(db: Database) -> None:
    """A run can be asked to pause as well as to stop."""
    db.executescript(
        """
        ALTER TABLE runs ADD COLUMN asked TEXT NOT NULL DEFAULT '';
        UPDATE runs SET asked = 'stop' WHERE stop_requested;
        ALTER TABLE runs DROP COLUMN stop_requested;
        """
    )


@migrations()
def m006_revealed(db: Database) -> None:
    """When a comparison's answers were shown by their sides: from then on a vote on it is not blind."""
    db.executescript("ALTER TABLE comparisons ADD COLUMN revealed TEXT;")


@migrations()
def m007_process_by_its_command(db: Database) -> None:
    """When a run's process began is not asked any more: that time moves with the machine's clock."""
    db.executescript("ALTER TABLE runs DROP COLUMN process_started;")
