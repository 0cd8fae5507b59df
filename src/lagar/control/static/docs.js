"use strict";
// The API page: Swagger UI over this server's own document, without any other origin.
(function () {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
  paint();
  dark.addEventListener("change", paint);
  const place = document.getElementById("swagger");
  window.SwaggerUIBundle({
    domNode: place,
    url: location.origin + place.dataset.document,
    validatorUrl: null,
    deepLinking: true,
    displayRequestDuration: true,
    docExpansion: place.dataset.expansion,
    defaultModelsExpandDepth: 0,
    defaultModelExpandDepth: 4,
    tryItOutEnabled: true,
    queryConfigEnabled: false,
    presets: [window.SwaggerUIBundle.presets.apis],
    layout: "BaseLayout",
    requestInterceptor(request) {
      const key = sessionStorage.getItem("lagar-key");
      if (key && !request.headers.Authorization && !request.headers["X-Api-Key"]) {
        request.headers.Authorization = "Bearer " + key;
      }
      return request;
    },
  });
})();
