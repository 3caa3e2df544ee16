-- A trigger ENABLE ALWAYS that swallows rows on the target is a difference, and is refused
-- [refused by follow: public.t]
-- [schema]
create table t(id int primary key, v text);
-- [target]
create function skip() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger s before insert on t for each row when (new.id = 3) execute function skip();
alter table t enable always trigger s;
-- [changes]
insert into t select i, 'v' from generate_series(1, 5) i;
-- [mend]
alter table t disable trigger s;
