-- A table whose identity is taken away later: its inserts go on, its updates fail on the source as PostgreSQL wants it
-- [schema]
create table t(id int primary key, v int);
-- [changes]
insert into t values (1, 1);
alter table t replica identity nothing;
insert into t values (2, 2);
do $$ begin update t set v = 3; raise 'not refused'; exception when object_not_in_prerequisite_state then null; end $$;
truncate t;
insert into t values (3, 3);
