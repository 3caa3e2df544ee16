-- Foreign keys with cascades: the target does what the source did, once
-- [schema]
create table parent(id int primary key, v text);
create table child(id int primary key, parent int references parent on delete cascade on update cascade);
create table orphan(id int primary key, parent int default 0 references parent on delete set default on update set null);
create table self(id int primary key, up int references self on delete cascade);
-- [changes]
insert into parent select i, 'p' from generate_series(0, 9) i;
insert into child select i, i % 10 from generate_series(1, 30) i;
insert into orphan select i, i % 10 from generate_series(1, 30) i;
delete from parent where id in (3, 4);
update parent set id = id + 100 where id > 7;
insert into self select i, nullif(i - 1, 0) from generate_series(1, 10) i;
delete from self where id = 5;
