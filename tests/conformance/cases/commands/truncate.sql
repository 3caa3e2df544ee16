-- TRUNCATE in all forms: several tables, CASCADE, RESTART IDENTITY, ONLY, within a transaction, rolled back
-- [schema]
create table a(id serial primary key, v text);
create table b(id int primary key, a int references a);
create table c(id int primary key, b int references b);
create table p(id int primary key); create table q() inherits (p); alter table q add primary key (id);
create table alone(id int primary key);
-- [changes]
insert into a(v) select 'v' from generate_series(1, 5); insert into b select i, i from generate_series(1, 5) i; insert into c select i, i from generate_series(1, 5) i;
insert into p values (1); insert into q values (2); insert into alone values (1), (2);
truncate c; insert into c values (1, 1);
truncate b, c; insert into b values (1, 1);
truncate a restart identity cascade; insert into a(v) values ('again');
truncate only p; insert into p values (3);
begin; truncate alone; rollback;
begin; insert into alone values (3); truncate alone; insert into alone values (4); savepoint s; truncate alone; rollback to s; insert into alone values (5); commit;
truncate p;
insert into q values (7);
