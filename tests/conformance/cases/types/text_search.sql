-- tsvector and tsquery with positions, weights and quotes
-- [schema]
create table t(id int primary key, v tsvector, q tsquery);
create table whole(v tsvector, q tsquery);
alter table whole replica identity full;
-- [changes]
insert into t values (1, $$'a' 'it''s' 'b c':1A,2B 'd\\e':16383$$, $$'fat':AB* & !('rat' <-> 'cat') | 'it''s'$$), (2, '', ''), (3, to_tsvector('english', 'The quick brown foxes'), to_tsquery('english', 'fox & quick'));
update t set v = strip(v) where id = 1;
insert into whole values ('a:1', 'a'), ('a:2', 'a & b'), (null, null);
delete from whole where v = 'a:2';
update whole set q = 'c' where v is null;
