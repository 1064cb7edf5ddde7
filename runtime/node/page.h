// The page at "/": draws the pool from GET /v1/pool, once a second.
//
// The page holds no secret. The token stands in the address's fragment (http://HOST:PORT/#TOKEN),
// which a browser keeps to itself, and travels in the Authorization header.
#pragma once

namespace causeway {

inline constexpr const char* kPoolPage = R"html(<!doctype html>
<meta charset="utf-8"><title>Causeway pool</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;color:#1b2733}
h1{font-size:1.3rem} h2{font-size:1rem;margin:1.2rem 0 .3rem}
.dead{color:#a33} .row{display:grid;grid-template-columns:9rem 9rem 1fr 11rem;gap:.8rem}
.bar{background:#e4e9ee;border-radius:4px;height:1rem;align-self:center;overflow:hidden}
.bar i{display:block;height:100%;background:#2a7de1} table{border-collapse:collapse}
td,th{padding:.1rem 1rem .1rem 0;text-align:left} #note{color:#a33}
</style>
<h1>Causeway pool</h1><p id="note"></p><div id="pool"></div>
<script>
const size=b=>{const u=['B','kB','MB','GB','TB'];let i=0;while(b>=1000&&i<4){b/=1000;i++}
  return b.toFixed(i?1:0)+' '+u[i]};
const add=(to,tag,text,cls)=>{const e=document.createElement(tag);if(text!=null)e.textContent=text;
  if(cls)e.className=cls;to.append(e);return e};
async function draw(){
  const note=document.getElementById('note');
  try{
    const answer=await fetch('/v1/pool',{headers:{Authorization:'Bearer '+location.hash.slice(1)}});
    const pool=await answer.json();
    if(pool.error){note.textContent=pool.error.message+' (open this page as /#TOKEN)';return}
    note.textContent='';
    const view=document.createElement('div');
    for(const node of pool.nodes){
      add(view,'h2',node.name+(node.alive?'':' (not reachable)'),node.alive?'':'dead');
      for(const d of node.devices){
        const row=add(view,'div',null,'row');add(row,'span',d.name);add(row,'span',d.model);
        const bar=add(add(row,'div',null,'bar'),'i');
        bar.style.width=(100*d.used_bytes/d.capacity_bytes)+'%';
        add(row,'span',size(d.used_bytes)+' of '+size(d.capacity_bytes));
      }
    }
    add(view,'h2','Regions');const table=add(view,'table');
    for(const r of pool.regions){const row=add(table,'tr');
      for(const text of [r.name||r.region,r.client,size(r.size_bytes),
        [...new Set(r.extents.map(e=>e.device))].join(', ')])add(row,'td',text)}
    add(view,'h2','Moved');const routes=add(view,'table');
    for(const r of pool.routes){const row=add(routes,'tr');
      add(row,'td',r.from+' \u2192 '+r.to);add(row,'td',size(r.bytes))}
    document.getElementById('pool').replaceChildren(view);
  }catch(e){note.textContent='The daemon does not answer.'}
}
draw();setInterval(draw,1000);
</script>
)html";

}  // namespace causeway
