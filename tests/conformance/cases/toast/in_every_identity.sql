-- Unchanged TOAST values under replica identity FULL, USING INDEX and in the key itself
-- [schema]
create table whole(id int, a text, n int);
alter table whole alter a set storage external;
alter table whole replica identity full;
create table indexed(id int primary key, u int not null unique, a text, n int);
alter table indexed alter a set storage external;
alter table indexed replica identity using index indexed_u_key;
create table keyed(k text primary key, a text, n int);
alter table keyed alter k set storage external, alter a set storage external;
create table identified(id int generated always as identity primary key, a text, n int);
alter table identified alter a set storage external;
-- [changes]
insert into whole select i, repeat(md5(i::text), 400), 0 from generate_series(1, 5) i;
update whole set n = 1 where id = 1; update whole set id = 12 where id = 2; update whole set a = null where id = 3; update whole set a = a || 'x' where id = 4;
delete from whole where id = 5;
insert into indexed select i, i, repeat(md5(i::text), 400), 0 from generate_series(1, 5) i;
update indexed set n = 1 where id = 1; update indexed set u = 12 where id = 2; update indexed set id = 13 where id = 3; update indexed set id = 14, u = 14 where id = 4;
insert into keyed select string_agg(md5((i * 1000 + j)::text), '' order by j), repeat(md5(i::text), 400), 0 from generate_series(1, 4) i, generate_series(1, 75) j group by i;
update keyed set n = 1; update keyed set k = 'short' where k = (select min(k) from keyed); update keyed set a = 'short' where k = (select max(k) from keyed);
insert into identified(a, n) select repeat(md5(i::text), 400), 0 from generate_series(1, 3) i;
update identified set n = 1 where id = 1;
update identified set id = default where id = 2;
update identified set id = default, n = 5 where id = 3;
