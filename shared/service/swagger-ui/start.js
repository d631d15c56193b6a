// Shows the document beside this script. Swagger UI would ask a validator elsewhere, if it was let.
SwaggerUIBundle({
  dom_id: "#page",
  url: new URL("../openapi.json", document.currentScript.src).href,
  validatorUrl: null,
  deepLinking: true,
  docExpansion: "list",
  tryItOutEnabled: true,
});
