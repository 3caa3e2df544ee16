-- Unlogged and temporary tables leave nothing in the log; logged ones beside them do
-- [schema]
create table t(id int primary key);
create unlogged table u(id int primary key);
-- [changes]
insert into u select generate_series(1, 100);
create temporary table tmp(id int);
insert into tmp select generate_series(1, 100);
insert into t select id from tmp where id < 5;
insert into t select id + 1000 from u where id < 5;
